// Writes lines behind their writers' backs.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace patchflow {

// A queue of lines and a thread that writes them out. The first line after a pause goes out at
// once, those that come within the next 2 ms together: under load neither a wake-up nor a system
// call a line. No method waits for whatever takes the lines, except Flush() and the end, whose
// waits are bounded. Thread-safe.
class LineWriter {
 public:
  // What becomes of a line when as many wait as may.
  enum class Full { kRefuse, kDropOldest };
  // Writes some lines, in order, at least one, and returns how many of them are written: the others
  // come again, first, 50 ms later. Called on the thread; must not throw, may take any time.
  using Write = std::function<size_t(const std::vector<std::string>& lines)>;

  // `capacity`: lines that may wait, besides those that are being written. `write` must own what it
  // needs: a thread that does not come back outlives the writer.
  LineWriter(size_t capacity, Full full, Write write);
  ~LineWriter() { Stop(); }
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  // False if there is no room for it besides `reserve` lines; always true with kDropOldest, which
  // has no reserve.
  bool Add(std::string line, size_t reserve = 0);
  // Waits until all lines added before are written, for at most so long.
  void Flush(std::chrono::milliseconds limit);

  // Ends once all is written, or a write fails, or for longer than kLastWrites does not come back;
  // how many lines are left. No line may be added any more.
  size_t Stop();

  struct Backlog {
    size_t lines = 0;                  // Not yet written.
    std::chrono::milliseconds age{0};  // For so long.
  };
  Backlog backlog() const;

  static constexpr std::chrono::seconds kLastWrites{5};

 private:
  struct State;
  static void Run(State& state);
  static void WriteOut(State& state, std::vector<std::string>& lines);

  const std::shared_ptr<State> state_;  // The thread's as well.
};

}  // namespace patchflow

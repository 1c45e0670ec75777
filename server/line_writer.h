// Writes lines behind their writers' backs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace patchflow {

// A queue of lines and a thread that writes them out. The first line after a pause goes out at
// once, those that come within the next 2 ms together: under load neither a wake-up nor a system
// call a line. Thread-safe.
class LineWriter {
 public:
  // What becomes of a line when as many wait as may.
  enum class Full { kWait, kDropOldest };
  // Writes some lines, in order, at least one; called on the thread, must not throw.
  using Write = std::function<void(const std::vector<std::string>& lines)>;

  // `capacity`: lines that may wait.
  LineWriter(size_t capacity, Full full, Write write);
  ~LineWriter();  // Once all is written.
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  void Add(std::string line);
  // Waits until all lines added before are written, for at most so long.
  void Flush(std::chrono::milliseconds limit);

 private:
  void Run();

  const size_t capacity_;
  const Full full_;
  const Write write_;
  std::mutex mutex_;
  std::condition_variable added_;
  std::condition_variable taken_;
  std::deque<std::string> waiting_;
  bool asleep_ = false;  // Until a line comes.
  bool writing_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace patchflow

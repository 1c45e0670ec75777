// The flight recorder: what a worker leaves behind when it dies, whatever ends it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

// A file of text that is written through shared memory, so that the kernel keeps what was written
// even of a process that got SIGKILL. It has, in lines of 256 bytes padded with spaces:
//   kKeptLines of "- TEXT", each replaced by its owner: where everything stands now
//   kEventLines of "NUMBER SECONDS.MICROSECONDS TEXT": a ring of the last events
// (a line not yet written is of zeros), and after these, stacks as backtrace_symbols_fd(3) writes
// them, at most kMaxStackBytes. No prompt is written. 0.3 us a line. Thread-safe.
class BlackBox {
 public:
  static constexpr size_t kLineBytes = 256;
  static constexpr size_t kKeptLines = 80;
  static constexpr size_t kEventLines = 512;
  static constexpr size_t kMaxStackBytes = 64 << 10;
  static constexpr int kFirstRankLine = 8;  // Of the kept lines; then one for each rank.

  // Makes `path` anew, readable by this user alone; a file that is there already, of a life before,
  // becomes `path`.last. UNAVAILABLE if it can't be written.
  static absl::StatusOr<std::unique_ptr<BlackBox>> Create(const std::string& path);
  // Keeps the file.
  ~BlackBox();
  BlackBox(const BlackBox&) = delete;
  BlackBox& operator=(const BlackBox&) = delete;

  // Adds an event, cut to one line. Async-signal-safe.
  void Note(std::string_view text);
  // Replaces kept line `line`, 0 to kKeptLines - 1; out of range: does nothing.
  void Keep(int line, std::string_view text);
  // Counts the calling thread, instead of an earlier one of this name, among those whose stacks are
  // written.
  void WatchThread(const std::string& name);
  // Once, at the first fault: `why`, the kept lines of ranks and the stack of every watched thread.
  // Takes at most 0.1 s for each of those.
  void Snapshot(std::string_view why);

  // From now on, a fatal signal and an uncaught exception are noted in this box, with the stack of
  // their thread, before they end the process as they would have. One box a process, which then
  // lives as long as the process.
  void CatchFaults();

  // For the signal handlers. Async-signal-safe.
  void WriteStack(std::string_view title);

 private:
  BlackBox(int file, char* lines) : file_(file), lines_(lines) {}
  char* Line(size_t index) const { return lines_ + index * kLineBytes; }

  const int file_;  // Appends.
  char* const lines_;
  std::atomic<uint64_t> events_ = 0;
  std::atomic<bool> snapshot_ = false;
  std::mutex mutex_;                                  // Of the kept lines and threads_.
  std::vector<std::pair<int, std::string>> threads_;  // Kernel id and name.
};

}  // namespace patchflow

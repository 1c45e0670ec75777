// Passes a process's output on, and keeps the last of it.
#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace patchflow {

// Reads `from`, which it owns, on a thread of its own, and writes it to `to`, line by line so that
// lines of several writers stay whole. What `to` does not take within 0.2 s is dropped.
// Thread-safe.
class Tail {
 public:
  static constexpr size_t kMaxBytes = 16 << 10;

  Tail(int from, int to);
  // Finish().
  ~Tail();
  Tail(const Tail&) = delete;
  Tail& operator=(const Tail&) = delete;

  // Takes what has been written so far and reads no more. Idempotent.
  void Finish();
  // The last kMaxBytes, by line; the first may have lost its beginning.
  std::vector<std::string> Lines() const;

 private:
  void Run();
  // False when there is nothing to read now.
  bool Pass();

  const int from_;
  const int to_;
  std::atomic<bool> finishing_ = false;
  std::atomic<bool> ended_ = false;  // Nobody can write any more.
  std::string line_;                 // Begun; the thread's own.
  mutable std::mutex mutex_;
  std::string kept_;
  std::thread thread_;
};

}  // namespace patchflow

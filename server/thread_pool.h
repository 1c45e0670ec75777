// Threads that wait for something to do.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace patchflow {

// Thread-safe.
class ThreadPool {
 public:
  // Throws std::system_error if the system gives no more threads.
  explicit ThreadPool(int threads);
  // Waits for all tasks.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // `task` runs on one of the threads, as soon as one is free. It must not throw.
  void Run(std::function<void()> task);

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool ending_ = false;
  std::vector<std::jthread> threads_;  // The last member: joined before the others go.
};

}  // namespace patchflow

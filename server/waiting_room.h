// Threads for requests that wait for a disk, so that those that do not are not held up.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace patchflow {

// Thread-safe.
class WaitingRoom {
 public:
  // `places`: pieces of work that may wait for one of the threads.
  WaitingRoom(size_t threads, size_t places);
  ~WaitingRoom() { Stop(); }
  WaitingRoom(const WaitingRoom&) = delete;
  WaitingRoom& operator=(const WaitingRoom&) = delete;

  // `work` is done soon, on one of the threads; false, and it is not, if all places are taken.
  bool Enter(std::function<void()> work);
  // Takes no more, and waits until all that was taken is done. Once; not from the threads.
  void Stop();

 private:
  void Run();

  const size_t places_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace patchflow

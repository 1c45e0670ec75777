#include "engine/device.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

namespace patchflow {
namespace {

// Our own loops are templates of LibTorch's headers: without OpenMP in our compile options they
// would run on the calling thread alone.
TEST(DeviceTest, SplitsOneOperationOverItsThreads) {
  SetThreadsPerOperation(2);
  std::mutex mutex;
  std::condition_variable changed;
  std::set<std::thread::id> threads;
  bool met = true;
  at::parallel_for(0, 2, 1, [&](int64_t /*begin*/, int64_t /*end*/) {
    std::unique_lock lock(mutex);
    threads.insert(std::this_thread::get_id());
    changed.notify_all();
    met &= changed.wait_for(lock, std::chrono::seconds(10), [&] { return threads.size() == 2; });
  });
  EXPECT_TRUE(met);
  EXPECT_EQ(threads.size(), 2);
}

}  // namespace
}  // namespace patchflow

#include "bench/rank_threads.h"

#include <c10/core/DeviceGuard.h>

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/device.h"
#include "parallel/local_communicator.h"

#ifdef PATCHFLOW_CUDA
#include "parallel/nccl_world.h"
#endif

namespace patchflow {
namespace {

// Shared with the threads, which may outlive the wait for them.
struct Run {
  std::function<void(const RankThread&)> fn;
  std::vector<std::unique_ptr<World>> worlds;
  std::mutex mutex;
  std::condition_variable changed;
  size_t running = 0;
  std::string failure;

  void Fail(const std::string& what) {
    const std::lock_guard lock(mutex);
    if (failure.empty()) failure = what;
    worlds.front()->Abort(failure);
  }

  void Main(size_t rank, at::Device device) {
    try {
      const c10::DeviceGuard on_device(device);
      const DeviceThread thread(DeviceThread::MakeStream(device));
      fn({*worlds[rank], device});
      WaitForDevice(device);
    } catch (const std::exception& error) {
      Fail(absl::StrCat("rank ", rank, ": ", error.what()));
    }
    const std::lock_guard lock(mutex);
    --running;
    changed.notify_all();
  }
};

template <typename Kind>
std::vector<std::unique_ptr<World>> AsWorlds(std::vector<std::unique_ptr<Kind>> joined) {
  std::vector<std::unique_ptr<World>> worlds;
  for (auto& world : joined) worlds.push_back(std::move(world));
  return worlds;
}

std::vector<std::unique_ptr<World>> Join(const std::vector<at::Device>& devices,
                                         absl::Duration limit) {
  const int ranks = static_cast<int>(devices.size());
#ifdef PATCHFLOW_CUDA
  if (devices.front().is_cuda()) {
    return AsWorlds(NcclWorld::Join(NcclWorld::MakeId(), ranks, 0, devices, {.timeout = limit}));
  }
#endif
  return AsWorlds(LocalWorld::Make(ranks, {.timeout = limit}));
}

}  // namespace

void RunOnRanks(at::DeviceType type, int ranks, absl::Duration limit,
                const std::function<void(const RankThread&)>& fn) {
  std::vector<at::Device> devices;
  for (int rank = 0; rank < ranks; ++rank) {
    devices.push_back(type == at::kCUDA ? at::Device(type, static_cast<at::DeviceIndex>(rank))
                                        : at::Device(type));
  }
  auto run = std::make_shared<Run>();
  run->fn = fn;
  run->worlds = Join(devices, limit);
  run->running = devices.size();
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < devices.size(); ++rank) {
    threads.emplace_back([run, rank, device = devices[rank]] { run->Main(rank, device); });
  }
  std::unique_lock lock(run->mutex);
  const auto wait = absl::ToChronoNanoseconds(limit);
  if (!run->changed.wait_for(lock, wait, [&] { return run->running == 0; })) {
    for (std::thread& thread : threads) thread.detach();
    throw std::runtime_error(absl::StrCat("not finished within ", absl::FormatDuration(limit)));
  }
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  if (!run->failure.empty()) throw std::runtime_error(run->failure);
}

}  // namespace patchflow

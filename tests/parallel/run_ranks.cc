#include "tests/parallel/run_ranks.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

// What the threads of one run share.
class Run {
 public:
  explicit Run(size_t ranks) : worlds_(ranks), running_(ranks) {}

  void Main(size_t index, const RankPlace& place, const std::function<void(const Rank&)>& fn) {
    const c10::InferenceMode inference;
    const c10::OptionalDeviceGuard device(place.device);
    at::set_num_threads(1);
    std::string failure;
    try {
      std::shared_ptr<World> world = place.connect();
      {
        std::lock_guard<std::mutex> lock(mutex_);
        worlds_[index] = world.get();
      }
      try {
        fn({*world, place.device});
      } catch (const std::exception& error) {
        Fail(absl::StrCat("rank ", index, ": ", error.what()));
      }
      std::lock_guard<std::mutex> lock(mutex_);
      worlds_[index] = nullptr;
    } catch (const std::exception& error) {
      Fail(absl::StrCat("rank ", index, ": ", error.what()));
    }
    std::lock_guard<std::mutex> lock(mutex_);
    --running_;
    changed_.notify_all();
  }

  void Fail(const std::string& what) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.empty()) {
      failure_ = what;
    }
    for (World* world : worlds_) {
      if (world != nullptr) {
        world->Abort(what);
      }
    }
  }

  bool Finished(absl::Duration within) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, absl::ToChronoNanoseconds(within),
                             [this] { return running_ == 0; });
  }

  std::string failure() {
    std::lock_guard<std::mutex> lock(mutex_);
    return failure_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<World*> worlds_;
  size_t running_;
  std::string failure_;
};

constexpr absl::Duration kGrace = absl::Seconds(5);

}  // namespace

void RunPlaces(const std::vector<RankPlace>& places, const std::function<void(const Rank&)>& fn,
               absl::Duration limit) {
  Run run(places.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < places.size(); ++i) {
    threads.emplace_back([&run, &places, &fn, i] { run.Main(i, places[i], fn); });
  }
  if (!run.Finished(limit)) {
    run.Fail(absl::StrCat("not finished within ", absl::FormatDuration(limit)));
    if (!run.Finished(kGrace)) {
      std::fprintf(stderr, "RunRanks: %s, and ranks do not end when aborted\n",
                   run.failure().c_str());
      std::_Exit(EXIT_FAILURE);
    }
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  if (!run.failure().empty()) {
    throw RankFailure(run.failure());
  }
}

}  // namespace patchflow

// What it brings that a worker takes the next job while the last image of the one before is still
// compressed: wall time of jobs of one noisy PNG of 1024 px each, the next one begun when the one
// before has ended, and when its ranks are free. The ranks make an image by waiting, as a host does
// while GPUs work. Prints one table; exit status 1 if the latter takes longer.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/noisy_image.h"
#include "worker/worker.h"

namespace patchflow {
namespace {

constexpr int kSizePx = 1024;

// Takes a set time for an image that was there before.
class WaitingEngine final : public Engine {
 public:
  explicit WaitingEngine(absl::Duration denoise) : denoise_(denoise) {}
  const ModelDescription& description() const override { return description_; }
  const std::vector<LoadedComponent>& components() const override { return components_; }
  absl::StatusOr<Generated> Generate(const ImageRequest& /*request*/,
                                     RequestMonitor& monitor) override {
    monitor.Enter(Phase::kText);
    monitor.Enter(Phase::kDenoise);
    absl::SleepFor(denoise_);
    monitor.Enter(Phase::kDecode);
    Generated made;
    made.image = image_;
    return made;
  }

 private:
  const absl::Duration denoise_;
  const Image image_ = NoisyImage(kSizePx, kSizePx, 1);
  const ModelDescription description_;
  const std::vector<LoadedComponent> components_;
};

class Progress final : public JobEvents {
 public:
  void OnPhase(int /*image*/, JobPhase /*phase*/, int /*steps*/) override {}
  void OnTrace(int /*image*/, const std::vector<RankTrace>& /*ranks*/) override {}
  void OnImage(FinishedImage /*image*/) override {}
  void OnRanksFree() override { Set(free_); }
  void OnEnd(const absl::Status& /*status*/) override {
    Set(free_);
    Set(ended_);
  }
  void AwaitFree() { Await(free_); }
  void AwaitEnd() { Await(ended_); }

 private:
  void Set(bool& flag) {
    const std::lock_guard lock(mutex_);
    flag = true;
    changed_.notify_all();
  }
  void Await(const bool& flag) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&flag] { return flag; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool free_ = false;
  bool ended_ = false;
};

absl::StatusOr<LoadedGroup> LoadWaiting(absl::Duration denoise) {
  RankGroupOptions options;
  options.make_engine = [denoise](int) -> absl::StatusOr<std::unique_ptr<Engine>> {
    return std::make_unique<WaitingEngine>(denoise);
  };
  auto group = RankGroup::Start(std::move(options));
  if (!group.ok()) return group.status();
  LoadedGroup loaded;
  loaded.group = *std::move(group);
  return loaded;
}

double Milliseconds(Worker& worker, int jobs, bool overlap) {
  Job job;
  ImageRequest request;
  request.width_px = kSizePx;
  request.height_px = kSizePx;
  job.images = {{0, request}};
  const absl::Time begin = absl::Now();
  std::vector<std::shared_ptr<Progress>> all;
  for (int i = 0; i < jobs; ++i) {
    all.push_back(std::make_shared<Progress>());
    if (const absl::Status begun = worker.Start(job, {}, all.back()); !begun.ok()) {
      throw std::runtime_error(begun.ToString());
    }
    overlap ? all.back()->AwaitFree() : all.back()->AwaitEnd();
  }
  for (const auto& each : all) each->AwaitEnd();
  return absl::ToDoubleMilliseconds(absl::Now() - begin);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Run(int jobs, int rounds, int denoise_ms) {
  WorkerOptions options;
  options.process_start = absl::Now();
  options.load = [denoise_ms] { return LoadWaiting(absl::Milliseconds(denoise_ms)); };
  options.on_failed = [](const absl::Status& failure) {
    std::fprintf(stderr, "%s\n", failure.ToString().c_str());
  };
  Worker worker(std::move(options));
  while (worker.Describe().state == WorkerState::kLoading) absl::SleepFor(absl::Milliseconds(1));
  std::vector<double> one_by_one;
  std::vector<double> overlapped;
  for (int round = 0; round < rounds; ++round) {
    one_by_one.push_back(Milliseconds(worker, jobs, /*overlap=*/false));
    overlapped.push_back(Milliseconds(worker, jobs, /*overlap=*/true));
  }
  std::printf(
      "%d jobs of a noisy PNG of %d px, ranks busy for %d ms each; %d rounds in turns, %u "
      "threads\n\n"
      "| the next job begins | median ms | least ms |\n| --- | ---: | ---: |\n",
      jobs, kSizePx, denoise_ms, rounds, std::thread::hardware_concurrency());
  const auto row = [](const char* name, const std::vector<double>& ms) {
    std::printf("| %s | %.1f | %.1f |\n", name, Median(ms),
                *std::min_element(ms.begin(), ms.end()));
  };
  row("when the one before has ended", one_by_one);
  row("when its ranks are free", overlapped);
  return Median(overlapped) <= Median(one_by_one) ? 0 : 1;
}

}  // namespace
}  // namespace patchflow

int main(int argc, char** argv) {
  CLI::App app("What it brings to compress a job's last image beside the next job");
  int jobs = 2;
  int rounds = 15;
  int denoise_ms = 100;
  app.add_option("--jobs", jobs)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--rounds", rounds)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--denoise-ms", denoise_ms)->check(CLI::Range(0, 10000))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return patchflow::Run(jobs, rounds, denoise_ms);
}

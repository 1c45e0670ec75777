#include "worker/rank_group.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/status_of.h"
#include "worker/phase_limits.h"

namespace patchflow {

// Shared with the threads, so that one that is left behind finds what it uses.
struct RankGroup::State {
  explicit State(RankGroupOptions given)
      : options(std::move(given)),
        limits(options.first_run_timeout, options.phase_timeout),
        pending(static_cast<size_t>(options.ranks)) {}

  const RankGroupOptions options;
  PhaseLimits limits;

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::shared_ptr<GroupJob>> pending;  // By rank: the job that it has not begun.
  std::shared_ptr<GroupJob> current;
  bool quit = false;
  int ended = 0;  // Threads.
  absl::Status failure;
  ModelDescription description;
  std::vector<LoadedComponent> components;

  std::vector<std::thread> threads;

  void Main(int rank, const std::shared_ptr<GroupJob>& loading);
  std::shared_ptr<GroupJob> NextJob(int rank);
  absl::Status Await(const std::shared_ptr<GroupJob>& job, GroupJob::Watch watch);
};

namespace {

// Loads, and tells how it went as a job without an image.
std::unique_ptr<Engine> LoadRank(const RankGroupOptions& options, int rank, GroupJob& loading) {
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      StatusOrOfThrowing<std::unique_ptr<Engine>>([&] { return options.make_engine(rank); });
  if (engine.ok()) return *std::move(engine);
  loading.Finish(rank, engine.status());
  return nullptr;
}

}  // namespace

void RankGroup::State::Main(int rank, const std::shared_ptr<GroupJob>& loading) {
  if (std::unique_ptr<Engine> engine = LoadRank(options, rank, *loading); engine != nullptr) {
    if (rank == 0) {
      const std::lock_guard lock(mutex);
      description = engine->description();
      components = engine->components();
    }
    loading->Finish(rank, Generated());
    while (const std::shared_ptr<GroupJob> job = NextJob(rank)) {
      const std::unique_ptr<RequestMonitor> monitor = job->MonitorOf(rank);
      job->Finish(rank, engine->Generate(job->request(), *monitor));
    }
  }
  const std::lock_guard lock(mutex);
  ++ended;
  changed.notify_all();
}

std::shared_ptr<GroupJob> RankGroup::State::NextJob(int rank) {
  std::unique_lock lock(mutex);
  std::shared_ptr<GroupJob>& job = pending[static_cast<size_t>(rank)];
  changed.wait(lock, [&] { return quit || job != nullptr; });
  return quit ? nullptr : std::exchange(job, nullptr);
}

absl::Status RankGroup::State::Await(const std::shared_ptr<GroupJob>& job, GroupJob::Watch watch) {
  watch.abort = options.abort;
  watch.first_rank = options.first_rank;
  watch.abort_timeout = options.abort_timeout;
  const absl::Status status = job->Await(watch);
  const std::lock_guard lock(mutex);
  current = nullptr;
  if (failure.ok()) failure = status;
  return status;
}

absl::StatusOr<std::unique_ptr<RankGroup>> RankGroup::Start(RankGroupOptions options) {
  const int ranks = options.ranks;
  const absl::Duration timeout = options.load_timeout;
  auto state = std::make_shared<State>(std::move(options));
  const auto loading = std::make_shared<GroupJob>(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    state->threads.emplace_back([state, rank, loading] { state->Main(rank, loading); });
  }
  std::unique_ptr<RankGroup> group(new RankGroup(state));
  absl::Status status =
      state->Await(loading, {.limit = [timeout](std::optional<Phase>) { return timeout; },
                             .progress = nullptr,
                             .abort = nullptr,
                             .abort_timeout = {}});
  if (!status.ok()) return status;
  return group;
}

RankGroup::RankGroup(std::shared_ptr<State> state) : state_(std::move(state)) {}

RankGroup::~RankGroup() { Stop(); }

bool RankGroup::Stop() {
  const auto timeout = absl::ToChronoNanoseconds(state_->options.abort_timeout);
  std::vector<std::thread> threads;
  bool all_ended = true;
  {
    std::unique_lock lock(state_->mutex);
    state_->quit = true;
    state_->changed.notify_all();
    all_ended = state_->changed.wait_for(lock, timeout,
                                         [&] { return state_->ended == state_->options.ranks; });
    threads.swap(state_->threads);
  }
  for (std::thread& thread : threads) {
    if (all_ended) {
      thread.join();
    } else {
      thread.detach();
    }
  }
  return all_ended;
}

absl::StatusOr<Generated> RankGroup::Run(
    const ImageRequest& request, std::stop_token stop,
    const std::function<void(Phase phase, int steps_done)>& progress,
    std::vector<RankTrace>* traces, std::function<bool(int step)> agreed) {
  if (const absl::Status failure = this->failure(); !failure.ok()) {
    return WithEngineReason(
        absl::UnavailableError(absl::StrCat("the group has failed: ", failure.message())),
        "ENGINE_FAILED");
  }
  const auto job = std::make_shared<GroupJob>(state_->options.ranks, request, std::move(stop),
                                              std::move(agreed));
  {
    const std::lock_guard lock(state_->mutex);
    std::fill(state_->pending.begin(), state_->pending.end(), job);
    state_->current = job;
    state_->changed.notify_all();
  }
  const absl::Status status =
      state_->Await(job, {.limit =
                              [&](std::optional<Phase> phase) {
                                return state_->limits.Limit(request, phase.value_or(Phase::kText));
                              },
                          .progress = progress,
                          .abort = nullptr,
                          .abort_timeout = {}});
  if (traces != nullptr) {
    *traces = job->Traces();
    for (RankTrace& trace : *traces) trace.rank += state_->options.first_rank;
  }
  if (!status.ok()) return status;
  absl::StatusOr<Generated> result = job->TakeResult(state_->options.first_rank == 0);
  if (result.ok()) {
    for (const Phase phase : {Phase::kText, Phase::kDenoise, Phase::kDecode}) {
      state_->limits.Record(request, phase, job->LongestPause(phase));
    }
  }
  return result;
}

absl::Status RankGroup::failure() const {
  const std::lock_guard lock(state_->mutex);
  return state_->failure;
}

std::vector<RankPosition> RankGroup::Positions() const {
  std::shared_ptr<GroupJob> job;
  {
    const std::lock_guard lock(state_->mutex);
    job = state_->current;
  }
  if (job != nullptr) return job->Positions();
  return std::vector<RankPosition>(static_cast<size_t>(state_->options.ranks));
}

const ModelDescription& RankGroup::description() const { return state_->description; }

const std::vector<LoadedComponent>& RankGroup::components() const { return state_->components; }

}  // namespace patchflow

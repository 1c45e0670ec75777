#include "worker/group_job.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/status_of.h"
#include "worker/watchdog_phase.h"

namespace patchflow {
namespace {

constexpr absl::Duration kSlice = absl::Milliseconds(100);

// As watchdogs call it; nothing: of one that has not begun.
std::string WatchdogName(std::optional<Phase> phase, bool loading) {
  if (!phase.has_value()) return loading ? "load" : "text";
  return *phase == Phase::kDenoise ? "step" : NameOf(*phase);
}

// The present phase, if it has not ended.
void EndPhase(RankTrace& trace, RankTrace::Clock::time_point when) {
  if (trace.phases.empty()) return;
  RankTrace::Clock::time_point& end = trace.phases.back().end;
  if (end == RankTrace::Clock::time_point()) end = when;
}

}  // namespace

class GroupJob::Monitor final : public RequestMonitor {
 public:
  Monitor(GroupJob& job, int rank) : job_(job), rank_(rank) {}
  void Enter(Phase phase) override { job_.Enter(rank_, phase); }
  void StepsDone(int steps) override {
    job_.Sign(rank_, [steps](Rank& rank) { rank.steps_done = steps; });
  }
  bool Continue(int step) override { return job_.Continue(rank_, step); }

 private:
  GroupJob& job_;
  int rank_;
};

GroupJob::GroupJob(int ranks, ImageRequest request, std::stop_token stop,
                   std::function<bool(int step)> agreed)
    : loading_(false),
      request_(std::move(request)),
      stop_(std::move(stop)),
      agreed_(std::move(agreed)),
      ranks_(static_cast<size_t>(ranks)) {}

GroupJob::GroupJob(int ranks) : loading_(true), ranks_(static_cast<size_t>(ranks)) {}

bool GroupJob::IsHarmless(const absl::Status& status) const {
  return status.ok() ||
         (!loading_ && (absl::IsCancelled(status) || absl::IsInvalidArgument(status)));
}

std::unique_ptr<RequestMonitor> GroupJob::MonitorOf(int rank) {
  return std::make_unique<Monitor>(*this, rank);
}

void GroupJob::Sign(int rank, const std::function<void(Rank&)>& change) {
  const std::lock_guard lock(mutex_);
  Rank& own = ranks_[static_cast<size_t>(rank)];
  const Clock::time_point now = Clock::now();
  if (own.phase.has_value()) {
    absl::Duration& longest = own.longest_pause.at(static_cast<size_t>(*own.phase));
    longest = std::max(longest, absl::FromChrono(now - own.last_sign));
  }
  own.last_sign = now;
  own.without_sign = absl::ZeroDuration();
  change(own);
  news_.notify_all();
}

void GroupJob::Enter(int rank, Phase phase) {
  Sign(rank, [phase](Rank& own) {
    own.phase = phase;
    EndPhase(own.trace, own.last_sign);
    own.trace.phases.push_back({phase, own.last_sign, {}});
  });
}

bool GroupJob::Continue(int rank, int step) {
  Sign(rank, [step](Rank& own) {
    if (step == 0) own.trace.steps_begin = own.last_sign;
  });
  if (failed_) throw std::runtime_error("another rank failed");
  return agreed_ ? agreed_(step) : agreement_.Continue(step, stop_.stop_requested());
}

void GroupJob::Finish(int rank, absl::StatusOr<Generated> result) {
  Sign(rank, [&](Rank& own) {
    if (failure_.ok() && !IsHarmless(result.status())) failure_ = result.status();
    own.phase.reset();
    EndPhase(own.trace, own.last_sign);
    if (result.ok()) own.trace.step_times = result->step_times;
    own.result = std::move(result);
  });
}

absl::Status GroupJob::Await(const Watch& watch) {
  std::unique_lock lock(mutex_);
  Place told = kNowhere;
  absl::Duration since_failure;
  while (!AllFinishedLocked()) {
    const Clock::time_point before = Clock::now();
    news_.wait_for(lock, absl::ToChronoNanoseconds(kSlice));
    const absl::Duration passed = std::min(2 * kSlice, absl::FromChrono(Clock::now() - before));
    if (failure_.ok()) Examine(passed, watch);
    if (!failure_.ok()) {
      if (!failed_.exchange(true) && watch.abort) {
        const std::string reason(failure_.message());
        lock.unlock();
        watch.abort(reason);
        lock.lock();
      }
      since_failure += passed;
      if (since_failure > watch.abort_timeout) break;
    }
    const Place last = LastPlaceLocked();
    if (last != kNowhere && last != told && watch.progress) {
      told = last;
      lock.unlock();
      watch.progress(static_cast<Phase>(last.first), last.second);
      lock.lock();
    }
  }
  if (!failure_.ok()) failed_ = true;
  return failure_;
}

void GroupJob::Examine(absl::Duration passed, const Watch& watch) {
  for (size_t i = 0; i < ranks_.size(); ++i) {
    Rank& rank = ranks_[i];
    if (rank.result.has_value()) continue;
    rank.without_sign += passed;
    const absl::Duration limit = watch.limit(rank.phase);
    if (rank.without_sign <= limit) continue;
    failure_ = WithWatchdogPhase(
        WithEngineReason(absl::UnavailableError(absl::StrCat(
                             "rank ", watch.first_rank + static_cast<int>(i),
                             " showed no progress for ", absl::FormatDuration(limit), " in ",
                             rank.phase.has_value() ? NameOf(*rank.phase) : "start", ", after ",
                             rank.steps_done, " steps")),
                         "ENGINE_FAILED"),
        WatchdogName(rank.phase, loading_));
    return;
  }
}

bool GroupJob::AllFinishedLocked() const {
  return std::all_of(ranks_.begin(), ranks_.end(),
                     [](const Rank& rank) { return rank.result.has_value(); });
}

GroupJob::Place GroupJob::LastPlaceLocked() const {
  Place last = kNowhere;
  for (const Rank& rank : ranks_) {
    if (rank.result.has_value()) continue;
    if (!rank.phase.has_value()) return kNowhere;
    const Place place(static_cast<int>(*rank.phase), rank.steps_done);
    last = last == kNowhere ? place : std::min(last, place);
  }
  return last;
}

absl::StatusOr<Generated> GroupJob::TakeResult(bool has_image) {
  const std::lock_guard lock(mutex_);
  std::optional<Generated> result;
  int64_t peak_bytes = 0;
  for (Rank& rank : ranks_) {
    if (!rank.result->ok()) return rank.result->status();
    Generated& own = **rank.result;
    peak_bytes = std::max(peak_bytes, own.peak_memory_bytes);
    if (own.image.has_value() || !has_image) result = std::move(own);
  }
  if (!result.has_value()) {
    return WithEngineReason(absl::InternalError("no rank returned an image"), "INTERNAL");
  }
  result->peak_memory_bytes = peak_bytes;
  return *std::move(result);
}

std::vector<RankPosition> GroupJob::Positions() const {
  const std::lock_guard lock(mutex_);
  std::vector<RankPosition> positions;
  for (const Rank& rank : ranks_) {
    positions.push_back({.phase = rank.phase,
                         .steps_done = rank.steps_done,
                         .age = absl::FromChrono(Clock::now() - rank.last_sign)});
  }
  return positions;
}

std::vector<RankTrace> GroupJob::Traces() const {
  const std::lock_guard lock(mutex_);
  std::vector<RankTrace> traces;
  for (const Rank& rank : ranks_) {
    traces.push_back(rank.trace);
    traces.back().rank = static_cast<int>(traces.size()) - 1;
    EndPhase(traces.back(), Clock::now());
  }
  return traces;
}

absl::Duration GroupJob::LongestPause(Phase phase) const {
  const std::lock_guard lock(mutex_);
  absl::Duration longest;
  for (const Rank& rank : ranks_) {
    longest = std::max(longest, rank.longest_pause.at(static_cast<size_t>(phase)));
  }
  return longest;
}

}  // namespace patchflow

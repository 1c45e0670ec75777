#include "client/load_run.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <ostream>
#include <unordered_map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "client/generation_result.h"
#include "client/server_error.h"

namespace patchflow {
namespace {

constexpr absl::Duration kShowPeriod = absl::Milliseconds(200);
constexpr absl::Duration kPauseAfterUnavailable = absl::Milliseconds(100);

nlohmann::json RecordOf(const PlannedRequest& planned, const LoadOutcome& outcome) {
  const auto info = DetailOf<google::rpc::ErrorInfo>(outcome.status);
  nlohmann::json images = nlohmann::json::array();
  for (const v1::ImageHeader& header : outcome.images)
    images.push_back({{"seed", header.seed()},
                      {"width", header.width()},
                      {"height", header.height()},
                      {"sha256", absl::BytesToHexString(header.sha256())}});
  return {{"number", outcome.number},
          {"request_id", planned.request.request_id()},
          {"prompt", planned.request.prompt().text()},
          {"seed", planned.request.sampling().seed()},
          {"ending", LoadEndingName(planned.ending)},
          {"due", absl::ToUnixNanos(outcome.due) * 1e-9},
          {"late_s", outcome.late_s},
          {"accept_s", outcome.accept_s},
          {"wait_s", outcome.wait_s},
          {"total_s", outcome.total_s},
          {"code", absl::StatusCodeToString(outcome.status.code())},
          {"reason", info ? info->reason() : ""},
          {"retry_info", DetailOf<google::rpc::RetryInfo>(outcome.status).has_value()},
          {"attempts", outcome.attempts},
          {"images", images}};
}

// One level. Calls end on threads of gRPC; requests begin there and on the timer's.
class LevelRun {
 public:
  LevelRun(const LoadRunning& running, const LoadLevel& level, int64_t first_number)
      : running_(running),
        plan_(running.plan),
        level_(level),
        first_number_(first_number),
        target_{running.connections, running.address, timer_},
        began_(absl::Now()),
        counted_from_(began_ + plan_.warm_up),
        stop_sending_(plan_.duration > absl::ZeroDuration() ? counted_from_ + plan_.duration
                                                            : absl::InfiniteFuture()) {}

  LoadRow Run(Interrupt& interrupt) {
    const Interrupt::Guard guard(interrupt, [this] { CancelAll(); });
    if (level_.open()) {
      ScheduleArrival(began_);
    } else {
      clients_ = level_.concurrency;
      for (int i = 0; i < level_.concurrency; ++i) ClientGoesOn();
    }
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, absl::ToChronoMilliseconds(kShowPeriod),
                              [this] { return !sending() && alive_ == 0; })) {
      running_.show(ProgressNow());
    }
    const bool whole = plan_.duration > absl::ZeroDuration() && !cancelled_;
    stats_.window_s =
        std::max(0.0, absl::ToDoubleSeconds((whole ? stop_sending_ : last_end_) - counted_from_));
    running_.show(ProgressNow());
    return {level_, std::move(stats_)};
  }

  int64_t numbers_used() const { return next_number_; }

 private:
  // These three under mutex_.
  bool sending() const { return level_.open() ? arrivals_go_on_ : clients_ > 0; }
  bool MayBegin() const {
    return !cancelled_ && absl::Now() < stop_sending_ &&
           (plan_.options.requests == 0 || next_number_ < plan_.options.requests);
  }
  LoadProgress ProgressNow() const {
    return {level_, absl::ToDoubleSeconds(absl::Now() - began_), next_number_,
            static_cast<int64_t>(calls_.size()), stats_};
  }

  void ScheduleArrival(absl::Time previous) {
    const absl::Time due =
        previous + plan_.GapBefore(first_number_ + next_arrival_++, level_.rate_hz);
    timer_.At(due, [this, due] { Arrive(due); });
  }

  void Arrive(absl::Time due) {
    std::unique_lock lock(mutex_);
    if (!MayBegin() || due >= stop_sending_) {
      arrivals_go_on_ = false;
      NotifyAtEnd();
      return;
    }
    if (static_cast<int>(calls_.size()) >= plan_.options.max_in_flight) {
      if (due >= counted_from_) ++stats_.not_sent;
      lock.unlock();
    } else {
      Begin(std::move(lock), due);
    }
    ScheduleArrival(due);
  }

  void ClientGoesOn() {
    std::unique_lock lock(mutex_);
    if (!MayBegin()) {
      --clients_;
      NotifyAtEnd();
      return;
    }
    Begin(std::move(lock), absl::Now());
  }

  void Begin(std::unique_lock<std::mutex> lock, absl::Time due) {
    const int64_t number = first_number_ + next_number_++;
    if (due >= counted_from_) ++stats_.sent;
    const std::shared_ptr<LoadCall> call(
        new LoadCall(target_, number, plan_.RequestOf(number), due,
                     [this](const PlannedRequest& planned, const LoadOutcome& outcome) {
                       Ended(planned, outcome);
                     }),
        [this](LoadCall* ended) { DeleteOnTimer(ended); });
    ++alive_;
    calls_[number] = call;
    lock.unlock();
    call->Begin();
  }

  void Ended(const PlannedRequest& planned, const LoadOutcome& outcome) {
    const std::string line =
        running_.records != nullptr ? JsonLine(RecordOf(planned, outcome)) + "\n" : "";
    const absl::Time now = absl::Now();
    {
      const std::lock_guard lock(mutex_);
      if (running_.records != nullptr) *running_.records << line;
      if (outcome.due >= counted_from_) {
        stats_.Add(outcome, plan_.limit, stop_sending_);
        last_end_ = std::max(last_end_, now);
      }
      calls_.erase(outcome.number);
      NotifyAtEnd();
    }
    if (level_.open()) return;
    if (absl::IsUnavailable(outcome.status)) {
      timer_.At(now + kPauseAfterUnavailable, [this] { ClientGoesOn(); });
    } else {
      ClientGoesOn();
    }
  }

  void DeleteOnTimer(LoadCall* call) {
    timer_.At(absl::Now(), [this, call] {
      delete call;
      const std::lock_guard lock(mutex_);
      --alive_;
      NotifyAtEnd();
    });
  }

  void NotifyAtEnd() {
    if (!sending() && alive_ == 0) changed_.notify_all();
  }

  void CancelAll() {
    std::vector<std::shared_ptr<LoadCall>> calls;
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
      arrivals_go_on_ = false;
      NotifyAtEnd();
      for (const auto& [number, call] : calls_) calls.push_back(call);
    }
    for (const auto& call : calls) call->Cancel();
  }

  const LoadRunning& running_;
  const LoadPlan& plan_;
  const LoadLevel level_;
  const int64_t first_number_;
  const LoadTarget target_;
  const absl::Time began_;
  const absl::Time counted_from_;
  const absl::Time stop_sending_;
  int64_t next_arrival_ = 0;  // Of the timer's thread, but for the first.

  std::mutex mutex_;
  std::condition_variable changed_;
  bool cancelled_ = false;
  bool arrivals_go_on_ = true;
  int clients_ = 0;  // That will send more.
  int64_t next_number_ = 0;
  std::unordered_map<int64_t, std::shared_ptr<LoadCall>> calls_;
  int64_t alive_ = 0;  // Calls not yet deleted.
  absl::Time last_end_ = absl::InfinitePast();
  LoadStats stats_;
  LoadTimer timer_;  // Goes first: its functions use the rest.
};

}  // namespace

std::vector<LoadRow> RunLoad(const LoadRunning& running, Interrupt& interrupt) {
  std::vector<LoadRow> rows;
  int64_t number = 0;
  for (const LoadLevel& level : running.plan.levels) {
    if (interrupt.triggered()) break;
    LevelRun run(running, level, number);
    rows.push_back(run.Run(interrupt));
    number += run.numbers_used();
  }
  return rows;
}

}  // namespace patchflow

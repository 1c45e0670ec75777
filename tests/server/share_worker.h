// A worker with a share of its group's ranks, without gRPC: does by itself what worker.proto says,
// and lets a test break it.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/clock.h"
#include "tests/server/scripted_worker.h"

namespace patchflow {

class ShareWorker final : public WorkerClient {
 public:
  ShareWorker(int ranks, int group_ranks) : ranks_(ranks), group_ranks_(group_ranks) {}

  // -- what a test does to it
  // As a process that is started: nothing is known of what was before.
  void Restart() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ownership_.Clear();
    world_id_.clear();
    first_rank_ = 0;
    state_ = worker::v1::WORKER_STATE_WAITING;
    device_fault_.reset();
    up_ = true;
    ++starts_;
  }
  // Its connections break, and it is not there.
  void Die() {
    const std::lock_guard<std::mutex> lock(mutex_);
    up_ = false;
    for (const auto& job : jobs_) {
      job->End(absl::UnavailableError("Socket closed"));
    }
  }
  void SetState(worker::v1::WorkerState state) {
    const std::lock_guard<std::mutex> lock(mutex_);
    state_ = state;
  }
  // FAILED, for its device.
  void Sicken(worker::v1::DeviceFaultKind kind, int code) {
    const std::lock_guard<std::mutex> lock(mutex_);
    state_ = worker::v1::WORKER_STATE_FAILED;
    device_fault_.emplace();
    device_fault_->set_kind(kind);
    device_fault_->set_code(code);
    device_fault_->set_text(absl::StrCat("0000:1B:00.0: code ", code));
  }
  std::atomic<bool> loads = true;       // Becomes READY once it has joined.
  std::atomic<bool> restarts = true;    // When it was told to leave.
  std::atomic<bool> deaf = false;       // Hold and StopAt time out.
  std::atomic<int64_t> last_begun = 0;  // What Hold answers.
  std::string plan = "plan-1";          // Set before use, as the next.
  std::string layout = "ulysses=2";
  int batch_size = 1;

  // -- what a test asks
  std::string world_id() const {
    return Locked([this] { return world_id_; });
  }
  int first_rank() const {
    return Locked([this] { return first_rank_; });
  }
  worker::v1::Ownership ownership() const {
    return Locked([this] { return ownership_; });
  }
  int worlds_made() const {
    return Locked([this] { return worlds_made_; });
  }
  std::vector<std::string> hosts() const {
    return Locked([this] { return hosts_; });
  }
  int leaves() const {
    return Locked([this] { return leaves_; });
  }
  int starts() const {
    return Locked([this] { return starts_; });
  }
  std::vector<int64_t> stops() const {
    return Locked([this] { return stops_; });
  }
  // The texts of the last one.
  std::vector<std::string> hint() const {
    return Locked([this] { return hint_; });
  }
  size_t jobs() const {
    return Locked([this] { return jobs_.size(); });
  }
  std::shared_ptr<ScriptedJob> job(size_t n) const {
    return Locked([this, n] { return jobs_.at(n); });
  }

  // -- what a front end does
  absl::StatusOr<worker::v1::DescribeResponse> Describe(absl::Duration) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    worker::v1::DescribeResponse info = ScriptedWorker::Info(plan);
    info.set_state(state_);
    info.set_ranks(ranks_);
    info.set_group_ranks(group_ranks_);
    info.set_first_rank(first_rank_);
    info.set_layout(layout);
    info.set_batch_size(batch_size);
    *info.mutable_ownership() = ownership_;
    return info;
  }
  absl::StatusOr<worker::v1::MakeWorldResponse> MakeWorld(
      const worker::v1::MakeWorldRequest& request, absl::Duration) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    hosts_.push_back(request.host());
    worker::v1::MakeWorldResponse response;
    response.set_world_id(absl::StrCat("world ", ++worlds_made_));
    return response;
  }
  absl::Status Join(const worker::v1::JoinRequest& request, absl::Duration) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const bool taken_over = request.world_id().empty();
    if (taken_over != (ownership_.epoch() != 0) ||
        (taken_over && request.previous_epoch() != ownership_.epoch())) {
      return absl::FailedPreconditionError("stale");
    }
    ownership_ = request.ownership();
    first_rank_ = request.first_rank();
    if (!taken_over) {
      world_id_ = request.world_id();
      state_ = loads ? worker::v1::WORKER_STATE_READY : worker::v1::WORKER_STATE_LOADING;
    }
    return absl::OkStatus();
  }
  absl::Status Leave(const worker::v1::LeaveRequest&, absl::Duration) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++leaves_;
    }
    if (restarts) {
      Restart();
    }
    return absl::OkStatus();
  }
  absl::StatusOr<worker::v1::HoldResponse> Hold(const worker::v1::HoldRequest& request,
                                                absl::Duration) override {
    if (deaf) {
      return absl::DeadlineExceededError("no answer");
    }
    EXPECT_EQ(request.ownership().epoch(), ownership().epoch());
    worker::v1::HoldResponse response;
    response.set_last_begun(last_begun);
    return response;
  }
  absl::Status StopAt(const worker::v1::StopAtRequest& request, absl::Duration) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    stops_.push_back(request.step());
    for (const auto& job : jobs_) {
      if (job->request.job() == request.job() &&
          request.step() != std::numeric_limits<int64_t>::max()) {
        job->End(absl::CancelledError("agreed"));
      }
    }
    return absl::OkStatus();
  }
  std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest& request) override {
    auto job = std::make_shared<ScriptedJob>(request);
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(job);
    return std::make_unique<ScriptedCall>(std::move(job));
  }
  void Prepare(const worker::v1::PrepareRequest& request) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    hint_.assign(request.texts().begin(), request.texts().end());
  }
  std::unique_ptr<WatchCall> Watch(absl::Duration interval,
                                   std::function<void(const worker::v1::WatchResponse&)> on_beat,
                                   std::function<void(absl::Status)> on_end) override {
    return std::make_unique<Beats>(*this, interval, std::move(on_beat), std::move(on_end));
  }

 private:
  template <typename Fn>
  auto Locked(Fn&& fn) const -> decltype(fn()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return fn();
  }
  // Nothing while it is down; `start` tells one life from another.
  std::optional<worker::v1::WatchResponse> Beat(int& start) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (start == 0) {
      start = starts_;
    }
    if (!up_ || start != starts_) {
      return std::nullopt;
    }
    worker::v1::WatchResponse beat;
    beat.set_state(state_);
    beat.set_epoch(ownership_.epoch());
    if (device_fault_.has_value()) {
      *beat.mutable_device_fault() = *device_fault_;
    }
    for (int i = 0; i < ranks_; ++i) {
      beat.add_ranks()->set_rank(first_rank_ + i);
    }
    return beat;
  }

  // Beats until it dies, or is another process than the one that was called.
  class Beats final : public WatchCall {
   public:
    Beats(ShareWorker& worker, absl::Duration interval,
          std::function<void(const worker::v1::WatchResponse&)> on_beat,
          std::function<void(absl::Status)> on_end)
        : thread_([this, &worker, interval, on_beat, on_end] {
            int start = 0;
            while (!stop_) {
              const auto beat = worker.Beat(start);
              if (!beat.has_value()) {
                break;
              }
              on_beat(*beat);
              std::this_thread::sleep_for(ToClock(interval));
            }
            on_end(absl::UnavailableError("gone"));
          }) {}
    ~Beats() override {
      stop_ = true;
      thread_.join();
    }

   private:
    std::atomic<bool> stop_ = false;
    std::thread thread_;
  };

  const int ranks_;
  const int group_ranks_;
  mutable std::mutex mutex_;
  bool up_ = true;
  int starts_ = 1;
  worker::v1::WorkerState state_ = worker::v1::WORKER_STATE_WAITING;
  std::optional<worker::v1::DeviceFault> device_fault_;
  worker::v1::Ownership ownership_;
  std::string world_id_;
  int first_rank_ = 0;
  int worlds_made_ = 0;
  std::vector<std::string> hosts_;
  int leaves_ = 0;
  std::vector<int64_t> stops_;
  std::vector<std::shared_ptr<ScriptedJob>> jobs_;
  std::vector<std::string> hint_;
};

// A client of a worker that belongs to the test.
class SharedClient final : public WorkerClient {
 public:
  explicit SharedClient(std::shared_ptr<ShareWorker> worker) : worker_(std::move(worker)) {}
  absl::StatusOr<worker::v1::DescribeResponse> Describe(absl::Duration timeout) override {
    return worker_->Describe(timeout);
  }
  absl::StatusOr<worker::v1::MakeWorldResponse> MakeWorld(
      const worker::v1::MakeWorldRequest& request, absl::Duration timeout) override {
    return worker_->MakeWorld(request, timeout);
  }
  absl::Status Join(const worker::v1::JoinRequest& request, absl::Duration timeout) override {
    return worker_->Join(request, timeout);
  }
  absl::Status Leave(const worker::v1::LeaveRequest& request, absl::Duration timeout) override {
    return worker_->Leave(request, timeout);
  }
  absl::StatusOr<worker::v1::HoldResponse> Hold(const worker::v1::HoldRequest& request,
                                                absl::Duration timeout) override {
    return worker_->Hold(request, timeout);
  }
  absl::Status StopAt(const worker::v1::StopAtRequest& request, absl::Duration timeout) override {
    return worker_->StopAt(request, timeout);
  }
  std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest& request) override {
    return worker_->Execute(request);
  }
  void Prepare(const worker::v1::PrepareRequest& request) override { worker_->Prepare(request); }
  std::unique_ptr<WatchCall> Watch(absl::Duration interval,
                                   std::function<void(const worker::v1::WatchResponse&)> on_beat,
                                   std::function<void(absl::Status)> on_end) override {
    return worker_->Watch(interval, std::move(on_beat), std::move(on_end));
  }

 private:
  const std::shared_ptr<ShareWorker> worker_;
};

}  // namespace patchflow

// A worker without gRPC, for tests of the dispatcher and the supervisor: does what its script says.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "server/sha256.h"
#include "server/worker_client.h"
#include "tests/server/test_model.h"

namespace patchflow {

// One Execute call as the script sees it.
class ScriptedJob {
 public:
  explicit ScriptedJob(worker::v1::ExecuteRequest asked) : request(std::move(asked)) {}
  const worker::v1::ExecuteRequest request;

  void Step(int index, int steps, worker::v1::JobPhase phase = worker::v1::JOB_PHASE_DENOISE) {
    worker::v1::ExecuteResponse event;
    event.mutable_step()->set_image_index(index);
    event.mutable_step()->set_phase(phase);
    event.mutable_step()->set_steps_done(steps);
    Send(event);
  }
  void Image(int index, const std::string& data = "image",
             const std::map<std::string, absl::Duration>& timings = {}) {
    worker::v1::ExecuteResponse event;
    event.mutable_image_header()->set_image_index(index);
    event.mutable_image_header()->set_total_bytes(data.size());
    event.mutable_image_header()->set_sha256(Sha256(data));
    Send(event);
    event.mutable_image_chunk()->set_image_index(index);
    event.mutable_image_chunk()->set_data(data);
    Send(event);
    event.mutable_image_done()->set_image_index(index);
    for (const auto& [stage, duration] : timings) {
      auto* timing = event.mutable_image_done()->add_timings();
      timing->set_stage(stage);
      *timing->mutable_duration() = ToProto(duration);
    }
    Send(event);
  }
  // All that follows is the tail.
  void RanksFree() {
    worker::v1::ExecuteResponse event;
    event.mutable_ranks_free();
    Send(event);
  }
  void Images() {
    for (int index : request.image_indices()) {
      Image(index);
    }
  }
  void Send(const worker::v1::ExecuteResponse& event) {
    std::lock_guard<std::mutex> lock(mutex_);
    events_.push_back(event);
    changed_.notify_all();
  }
  void End(const absl::Status& status) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!status_.has_value()) {
      status_ = status;
    }
    changed_.notify_all();
  }
  bool cancelled() const { return cancelled_; }

  // -- the client's side
  bool Read(worker::v1::ExecuteResponse& event) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !events_.empty() || status_.has_value(); });
    if (events_.empty()) {
      return false;
    }
    event = events_.front();
    events_.pop_front();
    return true;
  }
  absl::Status Finish() {
    std::lock_guard<std::mutex> lock(mutex_);
    return *status_;
  }
  void Cancel() {
    cancelled_ = true;
    End(absl::CancelledError("cancelled by the front end"));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<worker::v1::ExecuteResponse> events_;
  std::optional<absl::Status> status_;
  std::atomic<bool> cancelled_ = false;
};

// Hosts all ranks of its group.
class LoneWorker : public WorkerClient {
 public:
  absl::StatusOr<worker::v1::MakeWorldResponse> MakeWorld(const worker::v1::MakeWorldRequest&,
                                                          absl::Duration) override {
    return absl::FailedPreconditionError("alone");
  }
  absl::Status Join(const worker::v1::JoinRequest&, absl::Duration) override {
    return absl::FailedPreconditionError("alone");
  }
  absl::Status Leave(const worker::v1::LeaveRequest&, absl::Duration) override {
    return absl::FailedPreconditionError("alone");
  }
  absl::StatusOr<worker::v1::HoldResponse> Hold(const worker::v1::HoldRequest&,
                                                absl::Duration) override {
    return absl::FailedPreconditionError("alone");
  }
  absl::Status StopAt(const worker::v1::StopAtRequest&, absl::Duration) override {
    return absl::FailedPreconditionError("alone");
  }
};

// A call for a job.
class ScriptedCall final : public ExecuteCall {
 public:
  explicit ScriptedCall(std::shared_ptr<ScriptedJob> job) : job_(std::move(job)) {}
  bool Read(worker::v1::ExecuteResponse& event) override { return job_->Read(event); }
  absl::Status Finish() override { return job_->Finish(); }
  void Cancel() override { job_->Cancel(); }

 private:
  const std::shared_ptr<ScriptedJob> job_;
};

class ScriptedWorker final : public LoneWorker {
 public:
  // Called in Execute(), for call number `n` from 0.
  using Script = std::function<void(int n, ScriptedJob& job)>;
  explicit ScriptedWorker(Script script) : script_(std::move(script)) {}

  absl::StatusOr<worker::v1::DescribeResponse> Describe(absl::Duration) override { return Info(); }
  std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest& request) override {
    auto job = std::make_shared<ScriptedJob>(request);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(job);
    }
    script_(calls_++, *job);
    return std::make_unique<ScriptedCall>(job);
  }
  void Prepare(const worker::v1::PrepareRequest& request) override {
    std::lock_guard<std::mutex> lock(mutex_);
    hints_.push_back(request);
  }
  std::unique_ptr<WatchCall> Watch(absl::Duration,
                                   std::function<void(const worker::v1::WatchResponse&)>,
                                   std::function<void(absl::Status)>) override {
    return nullptr;
  }

  static worker::v1::DescribeResponse Info(const std::string& plan = "plan-1") {
    worker::v1::DescribeResponse info;
    info.set_state(worker::v1::WORKER_STATE_READY);
    *info.mutable_model() = TestModel();
    info.set_plan_digest(plan);
    info.set_ranks(2);
    return info;
  }
  int calls() const { return calls_; }
  std::shared_ptr<ScriptedJob> job(size_t n) {
    std::lock_guard<std::mutex> lock(mutex_);
    return jobs_.at(n);
  }
  std::vector<worker::v1::PrepareRequest> hints() {
    std::lock_guard<std::mutex> lock(mutex_);
    return hints_;
  }

 private:
  const Script script_;
  std::atomic<int> calls_ = 0;
  std::mutex mutex_;
  std::vector<std::shared_ptr<ScriptedJob>> jobs_;
  std::vector<worker::v1::PrepareRequest> hints_;
};

}  // namespace patchflow

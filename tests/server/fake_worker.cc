#include "tests/server/fake_worker.h"

#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "patchflow/worker/v1/worker.grpc.pb.h"
#include "server/clock.h"
#include "server/errors.h"
#include "server/sha256.h"
#include "server/status.h"
#include "tests/server/fake_events.h"
#include "tests/server/fake_order.h"
#include "tests/server/fake_passes.h"
#include "tests/server/test_model.h"

namespace patchflow {
namespace {

using worker::v1::ExecuteRequest;
using worker::v1::ExecuteResponse;
using Events = FakeEvents;

grpc::Status Error(absl::StatusCode code, const char* reason) {
  return ToGrpc(MakeError(code, reason, absl::StrCat("fake ", reason)));
}

class FakeWorkerService final : public FakeWorker, public worker::v1::WorkerService::Service {
 public:
  explicit FakeWorkerService(const FakeWorkerOptions& options) : options_(options) {}

  ~FakeWorkerService() override {
    Die();
    server_->Wait();
  }

  bool Listen() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options_.address, options_.credentials);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    return server_ != nullptr;
  }

  void Die() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      dead_ = true;
    }
    changed_.notify_all();
    passes_.Stop();
    server_->Shutdown(std::chrono::system_clock::now());
  }

  int executions() const override { return executions_; }
  int steps() const override { return steps_; }
  bool busy() const override { return passes_.busy(); }

  ExecuteRequest last_request() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return last_request_;
  }

  void SayFailed(const std::string& why) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      failure_ = why;
    }
    changed_.notify_all();
  }

  void Wait() override {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return dead_; });
  }

  grpc::Status Describe(grpc::ServerContext* /*context*/, const worker::v1::DescribeRequest*,
                        worker::v1::DescribeResponse* response) override {
    response->set_state(State());
    response->set_ranks(options_.ranks);
    response->set_layout(options_.layout);
    response->set_batch_size(options_.batch_size);
    if (Loaded()) {
      *response->mutable_model() = TestModel();
      response->mutable_model()->clear_name();
      response->mutable_model()->set_dtype(options_.dtype);
      response->mutable_model()->mutable_defaults()->set_guidance_scale(
          static_cast<float>(options_.default_guidance));
      response->set_plan_digest(options_.plan_digest);
      *response->mutable_load_time() = ToProto(options_.load_time);
    }
    return grpc::Status::OK;
  }

  grpc::Status Watch(grpc::ServerContext* context, const worker::v1::WatchRequest* request,
                     grpc::ServerWriter<worker::v1::WatchResponse>* beats) override {
    const absl::Duration interval =
        request->has_interval() ? FromProto(request->interval()) : absl::Milliseconds(500);
    while (!context->IsCancelled()) {
      const worker::v1::WatchResponse beat = Beat();
      if (!frozen_ && !beats->Write(beat)) {
        break;
      }
      std::unique_lock<std::mutex> lock(mutex_);
      const auto until = Clock::now() + ToClock(interval);
      while (!dead_ && Clock::now() < until && StateLocked() == beat.state()) {
        changed_.wait_until(lock, std::min(until, Clock::now() + std::chrono::milliseconds(10)));
      }
      if (dead_) {
        break;
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status Execute(grpc::ServerContext* context, const ExecuteRequest* request,
                       Events* events) override {
    Call call{*context, *request, *events};
    if (!passes_.Take(*request, call.seat)) {
      return Error(absl::StatusCode::kResourceExhausted, reason::kWorkerBusy);
    }
    ++executions_;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      last_request_ = *request;
    }
    changed_.notify_all();
    grpc::Status status = Run(call);
    LeaveRanks(call);
    passes_.LeaveTail(call.seat);
    if (status.error_code() == grpc::StatusCode::INTERNAL ||
        status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      End();
    }
    return status;
  }

 private:
  struct Call {
    grpc::ServerContext& context;
    const ExecuteRequest& request;
    Events& events;
    FakePasses::Seat seat = {};
  };

  void LeaveRanks(Call& call) {
    passes_.LeaveRanks(call.seat);
    changed_.notify_all();
  }

  // The ranks are free for the next pass when the last images of the one before are sent.
  void BecomeTail(Call& call) {
    if (passes_.BecomeTail(call.seat, [&] { return call.context.IsCancelled(); })) {
      changed_.notify_all();
      ExecuteResponse event;
      event.mutable_ranks_free();
      call.events.Write(event, Before(options_.encode_time));
    }
  }

  bool Loaded() const { return Clock::now() - started_ >= ToClock(options_.load_time); }

  worker::v1::WorkerState StateLocked() const {
    return !failure_.empty() ? worker::v1::WORKER_STATE_FAILED
           : !Loaded()       ? worker::v1::WORKER_STATE_LOADING
           : passes_.busy()  ? worker::v1::WORKER_STATE_BUSY
                             : worker::v1::WORKER_STATE_READY;
  }

  worker::v1::WorkerState State() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return StateLocked();
  }

  worker::v1::WatchResponse Beat() const {
    worker::v1::WatchResponse beat;
    std::lock_guard<std::mutex> lock(mutex_);
    beat.set_state(StateLocked());
    beat.set_failure(failure_);
    for (int i = 0; i < options_.ranks; ++i) {
      auto* rank = beat.add_ranks();
      rank->set_rank(i);
      rank->set_memory_used_bytes(static_cast<uint64_t>(1 + i) << 30);
      rank->set_memory_peak_bytes(static_cast<uint64_t>(2 + i) << 30);
      rank->set_memory_reserved_bytes(static_cast<uint64_t>(3 + i) << 30);
      rank->set_device_used_bytes(static_cast<uint64_t>(5 + i) << 30);
      rank->set_device_peak_bytes(static_cast<uint64_t>(6 + i) << 30);
      rank->set_memory_total_bytes(uint64_t{80} << 30);
      rank->set_communication_bytes(static_cast<uint64_t>(steps_) * 1000);
      rank->set_step(passes_.busy() ? steps_.load() : -1);
      rank->set_device("fake");
      auto* waited = rank->add_communication_times();
      waited->set_operation("p2p");
      waited->set_calls(steps_);
      waited->set_bytes(static_cast<uint64_t>(steps_) * 1000);
      *waited->mutable_time() = ToProto(absl::Microseconds(100) * steps_.load());
    }
    return beat;
  }

  // The process is about to end, as a worker's does after an error.
  void End() {
    if (options_.own_process) {
      std::thread([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        _exit(1);
      }).detach();
    } else {
      BeginToDie();
    }
  }

  // A call can't wait for itself to end.
  void BeginToDie() {
    if (!dies_.exchange(true)) {
      dying_ = std::jthread([this] { Die(); });
    }
  }

  void Sleep(absl::Duration duration) {
    if (duration > absl::ZeroDuration()) {
      std::this_thread::sleep_for(ToClock(duration));
    }
  }

  void Hang(grpc::ServerContext& context) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!dead_ && !context.IsCancelled()) {
      changed_.wait_for(lock, std::chrono::milliseconds(10));
    }
  }

  // What the order does at this step; nothing if it is not due.
  std::optional<grpc::Status> Obey(const FakeOrder& order, int step, grpc::ServerContext& context) {
    if (order.fault.empty() || order.step != step) {
      return std::nullopt;
    }
    if (order.fault == "die") {
      if (options_.own_process) {
        kill(getpid(), SIGKILL);
      }
      BeginToDie();
      Hang(context);
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "dead");
    }
    if (order.fault == "stop") {
      if (options_.own_process) {
        kill(getpid(), SIGSTOP);
      }
      frozen_ = true;
    }
    if (order.fault == "stop" || order.fault == "hang") {
      Hang(context);
      return grpc::Status(grpc::StatusCode::CANCELLED, "hung");
    }
    if (order.fault == "throw" || order.fault == "oom") {
      return order.fault == "throw"
                 ? Error(absl::StatusCode::kInternal, reason::kInternal)
                 : Error(absl::StatusCode::kResourceExhausted, reason::kGpuOutOfMemory);
    }
    return std::nullopt;
  }

  grpc::Status Run(Call& call) {
    const ExecuteRequest& request = call.request;
    Events& events = call.events;
    const FakeOrder order = OrderOf(request.prompt());
    if (order.fault == "refuse") {
      return Error(absl::StatusCode::kInvalidArgument, reason::kInvalidRequest);
    }
    if (order.fault == "nan") {
      return Error(absl::StatusCode::kInternal, reason::kNonFiniteOutput);
    }
    if (order.fault == "short") {
      return grpc::Status::OK;
    }
    const int64_t received_ns = NowNs();
    for (int index : request.image_indices()) {
      const int64_t text_ns = NowNs();
      SendStep(events, index, worker::v1::JOB_PHASE_TEXT, 0, kFlush);
      Sleep(options_.text_time);
      const int64_t steps_ns = NowNs();
      for (int step = 0; step < request.params().steps(); ++step) {
        if (auto status = Obey(order, step, call.context)) {
          return *status;
        }
        Sleep(options_.step_time);
        if (call.context.IsCancelled()) {
          return grpc::Status::CANCELLED;
        }
        ++steps_;
        SendStep(events, index, worker::v1::JOB_PHASE_DENOISE, step + 1, options_.step_time);
        SendPreview(events, request, index, step + 1);
      }
      const int64_t decode_ns = NowNs();
      SendStep(events, index, worker::v1::JOB_PHASE_DECODE, request.params().steps(),
               options_.decode_time);
      Sleep(options_.decode_time);
      SendTrace(events, index, received_ns, request.params().steps(),
                {text_ns, steps_ns, decode_ns, NowNs()});
      if (index == *request.image_indices().rbegin()) {
        BecomeTail(call);
        if (auto status = Obey(order, request.params().steps(), call.context)) {
          return *status;
        }
        Sleep(options_.encode_time);
      }
      SendImage(events, request, index, order.fault == "corrupt");
    }
    return grpc::Status::OK;
  }

  int64_t NowNs() const {
    return std::chrono::nanoseconds(Clock::now().time_since_epoch()).count() +
           absl::ToInt64Nanoseconds(options_.clock_ahead);
  }

  // Every rank does the same.
  void SendTrace(Events& events, int index, int64_t received_ns, int steps,
                 const std::array<int64_t, 4>& bounds_ns) const {
    constexpr std::array kPhases = {worker::v1::JOB_PHASE_TEXT, worker::v1::JOB_PHASE_DENOISE,
                                    worker::v1::JOB_PHASE_DECODE};
    ExecuteResponse event;
    auto& trace = *event.mutable_image_trace();
    trace.set_image_index(index);
    trace.set_received_ns(received_ns);
    for (int i = 0; i < options_.ranks; ++i) {
      auto& rank = *trace.add_ranks();
      rank.set_rank(i);
      for (size_t phase = 0; phase < kPhases.size(); ++phase) {
        auto& span = *rank.add_phases();
        span.set_phase(kPhases.at(phase));
        span.set_begin_ns(bounds_ns.at(phase));
        span.set_end_ns(bounds_ns.at(phase + 1));
      }
      rank.set_steps_begin_ns(bounds_ns[1]);
      for (int step = 0; step < steps; ++step) {
        rank.add_step_times_ns(absl::ToInt64Nanoseconds(options_.step_time));
      }
    }
    trace.set_sent_ns(NowNs());
    events.Write(event, Before(absl::ZeroDuration()));
  }

  void SendImage(Events& events, const ExecuteRequest& request, int index, bool corrupt) const {
    const int64_t encode_ns = NowNs();
    const std::string data = FakeImage(request, index, options_);
    ExecuteResponse event;
    auto* header = event.mutable_image_header();
    header->set_image_index(index);
    header->set_format(request.params().format());
    header->set_width(request.params().width());
    header->set_height(request.params().height());
    header->set_seed(request.params().seed() + static_cast<uint64_t>(index));
    header->set_total_bytes(data.size());
    header->set_sha256(Sha256(corrupt ? "something else" : data));
    events.Write(event, Before(absl::ZeroDuration()));
    for (size_t offset = 0; offset < data.size(); offset += 1 << 20) {
      event.Clear();
      event.mutable_image_chunk()->set_image_index(index);
      event.mutable_image_chunk()->set_offset(offset);
      event.mutable_image_chunk()->set_data(data.substr(offset, 1 << 20));
      events.Write(event, Before(absl::ZeroDuration()));
    }
    event.Clear();
    auto* done = event.mutable_image_done();
    done->set_image_index(index);
    const int steps = request.params().steps();
    for (auto [stage, time] : {std::pair{"text_encode", options_.text_time},
                               {"denoise", options_.step_time * steps},
                               {"vae_decode", options_.decode_time},
                               {"encode_image", options_.encode_time}}) {
      auto* timing = done->add_timings();
      timing->set_stage(stage);
      *timing->mutable_duration() = ToProto(time);
    }
    done->mutable_encode()->set_phase(worker::v1::JOB_PHASE_ENCODE);
    done->mutable_encode()->set_begin_ns(encode_ns);
    done->mutable_encode()->set_end_ns(NowNs());
    done->set_peak_memory_bytes(uint64_t{3} << 30);
    for (int i = 0; i < steps; ++i) *done->add_step_times() = ToProto(options_.step_time);
    grpc::WriteOptions with_the_end;
    if (index == *request.image_indices().rbegin()) with_the_end.set_last_message();
    events.Write(event, with_the_end);
  }

  const FakeWorkerOptions options_;
  const Clock::time_point started_ = Clock::now();
  FakePasses passes_{options_.batch_size};
  std::atomic<bool> frozen_ = false;
  std::atomic<bool> dies_ = false;
  std::atomic<int> executions_ = 0;
  std::atomic<int> steps_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool dead_ = false;
  std::string failure_;
  ExecuteRequest last_request_;
  std::unique_ptr<grpc::Server> server_;
  std::jthread dying_;  // Set by the call that sets dies_; joined before all else goes.
};

}  // namespace

std::unique_ptr<FakeWorker> FakeWorker::Start(const FakeWorkerOptions& options) {
  auto worker = std::make_unique<FakeWorkerService>(options);
  if (!worker->Listen()) {
    return nullptr;
  }
  return worker;
}

}  // namespace patchflow

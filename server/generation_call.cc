#include "server/generation_call.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "server/errors.h"
#include "server/request_trace.h"

namespace patchflow {
namespace {

constexpr Clock::duration kMaxMargin = std::chrono::milliseconds(20);

absl::Status ClientCancelled() {
  return MakeError(absl::StatusCode::kCancelled, reason::kClientCancelled,
                   "the client ended the call");
}

}  // namespace

std::optional<Clock::time_point> DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  const auto now = std::chrono::system_clock::now();
  if (deadline >= now + std::chrono::hours(24 * 365)) {
    return std::nullopt;
  }
  const auto left = std::chrono::duration_cast<Clock::duration>(deadline - now);
  return Clock::now() + left - std::clamp(left / 20, Clock::duration::zero(), kMaxMargin);
}

void Audit(AuditLog& audit, const CallRecord& call, const absl::Status& status,
           Clock::duration duration, size_t bytes) {
  audit.Call({{"method", call.method},
              {"identity", call.identity},
              {"peer", call.peer},
              {"request_id", call.request_id},
              {"model", call.model},
              {"code", absl::StatusCodeToString(status.code())},
              {"reason", ReasonOf(status)},
              {"seconds", absl::ToDoubleSeconds(absl::FromChrono(duration))},
              {"bytes", static_cast<int64_t>(bytes)}});
}

GenerationCall::GenerationCall(const CallServices& services, const char* method, std::string peer)
    : services_(services), method_(method), peer_(std::move(peer)) {
  services_.metrics.CallBegan(method);
}

void GenerationCall::SetCaller(const std::string& identity, const std::string& request_id) {
  identity_ = identity;
  request_id_ = CutText(request_id, 64);
}

void GenerationCall::Attach(std::shared_ptr<Generation> generation,
                            std::optional<Clock::time_point> deadline) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (finished_) {  // Its client did not wait for it.
      lock.unlock();
      generation->Unsubscribe(this, ClientCancelled());
      return;
    }
    generation_ = std::move(generation);
    const Clock::time_point until = generation_->HeldUntil(this);
    if (deadline.has_value() && *deadline <= until) {
      SetTimer(*deadline, &GenerationCall::PastDeadline);
    } else if (until != Holders::kForever) {
      SetTimer(until, &GenerationCall::PastTimeout);
    }
  }
  Pump();
}

// Under mutex_.
void GenerationCall::SetTimer(Clock::time_point when, void (GenerationCall::*then)()) {
  deadline_timer_ = services_.timer.At(when, [weak = weak_from_this(), then] {
    if (auto alive = weak.lock()) {
      (alive.get()->*then)();
    }
  });
}

void GenerationCall::EndWith(const absl::Status& status) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!forced_end_.has_value()) {
      forced_end_ = status;
    }
  }
  Pump();
}

std::shared_ptr<Generation> GenerationCall::generation() {
  std::lock_guard<std::mutex> lock(mutex_);
  return generation_;
}

void GenerationCall::PastDeadline() {
  if (const auto waited_for = generation()) {  // Null: the call is done, just now.
    const absl::Status status = waited_for->DeadlineError();
    EndWith(status);
    waited_for->Unsubscribe(this, status);
  }
}

void GenerationCall::PastTimeout() {
  if (const auto waited_for = generation()) {
    const absl::Status status = waited_for->DeadlineError();
    waited_for->Unsubscribe(this, status);
    if (waited_for->ended()) {
      Pump();
    } else {
      EndWith(status);
    }
  }
}

void GenerationCall::ClientGone() {
  const auto waited_for = generation();
  EndWith(ClientCancelled());
  if (waited_for != nullptr) {
    waited_for->Unsubscribe(this, ClientCancelled());
  }
}

void GenerationCall::Done() {
  std::shared_ptr<Generation> generation;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    services_.timer.Cancel(deadline_timer_);
    generation = std::move(generation_);
    generation_ = nullptr;
    finished_ = true;
  }
  if (generation != nullptr) {
    request_id_ = generation->spec().request_id;
  }
  EndedCall call{model_, method_, "", outcome_, Clock::now() - began_};
  if (generation != nullptr) {
    generation->Unsubscribe(this, ClientCancelled());
    const v1::EffectiveParams& params = generation->spec().params();
    call.resolution = ResolutionOf(params);
    if (outcome_.ok()) {
      // Of what had ended before the call came, the whole call.
      const absl::Duration since_end = absl::Now() - generation->end_time();
      const absl::Duration duration = absl::FromChrono(call.duration);
      services_.metrics.Sent(params.model(), std::min(since_end, duration));
      if (generation->trace() != nullptr && since_end <= duration) {
        generation->trace()->Sent();
      }
    }
  }
  services_.metrics.CallEnded(call);
  services_.metrics.ResponseBytes(model_, bytes_sent_);
  Audit(services_.audit, {method_, identity_, peer_, request_id_, model_}, outcome_, call.duration,
        bytes_sent_);
}

}  // namespace patchflow

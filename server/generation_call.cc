#include "server/generation_call.h"

#include <algorithm>

#include "server/errors.h"

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

GenerationCall::GenerationCall(const CallServices& services, const char* method)
    : services_(services), method_(method) {}

void GenerationCall::Attach(std::shared_ptr<Generation> generation,
                            std::optional<Clock::time_point> deadline) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation_ = std::move(generation);
    if (deadline.has_value()) {
      deadline_timer_ = services_.timer.At(*deadline, [weak = weak_from_this()] {
        if (auto alive = weak.lock()) {
          alive->PastDeadline();
        }
      });
    }
  }
  Pump();
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

void GenerationCall::PastDeadline() {
  std::shared_ptr<Generation> generation;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation = generation_;
  }
  const absl::Status status = generation->DeadlineError();
  EndWith(status);
  generation->Unsubscribe(this, status);
}

void GenerationCall::ClientGone() {
  std::shared_ptr<Generation> generation;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation = generation_;
  }
  EndWith(ClientCancelled());
  if (generation != nullptr) {
    generation->Unsubscribe(this, ClientCancelled());
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
    generation->Unsubscribe(this, ClientCancelled());
  }
  services_.metrics.CallEnded(model_, method_, outcome_, Clock::now() - began_);
  services_.metrics.ResponseBytes(model_, bytes_sent_);
}

}  // namespace patchflow

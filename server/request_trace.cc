#include "server/request_trace.h"

#include <utility>

namespace patchflow {
namespace {

constexpr size_t kMaxBytes = 256 << 10;
constexpr size_t kRunBytes = sizeof(RequestTrace::Run) + 64;

TraceContext RootOf(const TraceOrigin& origin, bool sampled) {
  TraceContext root = NewTrace(sampled);
  if (origin.parent.has_value()) {
    root.trace_high = origin.parent->trace_high;
    root.trace_low = origin.parent->trace_low;
    root.sampled = origin.parent->sampled;
  }
  return root;
}

}  // namespace

uint64_t RunSpan(uint64_t root, size_t n) { return ChildSpan(root, 2 * n + 3); }
uint64_t WaitSpan(uint64_t root, size_t n) { return ChildSpan(root, 2 * n + 2); }

RequestTrace::RequestTrace(const GenerationSpec& spec, const TraceOrigin& origin, bool sampled)
    : key_(spec.key()), bytes_(sizeof(RequestTrace) + spec.request_id.size()) {
  record_.request_id = spec.request_id;
  record_.model = spec.params().model();
  record_.root = RootOf(origin, sampled);
  record_.parent_span = origin.parent.has_value() ? origin.parent->span : 0;
  record_.arrived = origin.arrived;
  record_.accepted = Clock::now();
  record_.arrived_at = absl::Now() - absl::FromChrono(record_.accepted - origin.arrived);
  record_.waits.push_back({record_.accepted, std::nullopt});
}

TraceContext RequestTrace::BeginRun(const std::string& group, int attempt) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto now = Clock::now();
  if (!record_.waits.back().end.has_value()) {
    record_.waits.back().end = now;
  }
  if (bytes_ + kRunBytes <= kMaxBytes) {
    bytes_ += kRunBytes;
    record_.runs.push_back({group, attempt, now, std::nullopt, {}, {}, {}});
  }
  TraceContext context = record_.root;
  context.span = RunSpan(record_.root.span, record_.runs.size() - 1);
  return context;
}

void RequestTrace::EndRun(const absl::Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  Run& run = record_.runs.back();
  run.end = Clock::now();
  run.status = status;
}

void RequestTrace::Requeued() {
  std::lock_guard<std::mutex> lock(mutex_);
  record_.waits.push_back({Clock::now(), std::nullopt});
}

void RequestTrace::AddReport(worker::v1::ImageTrace image) {
  const auto received = image.arrived_ns() == 0
                            ? Clock::now()
                            : Clock::time_point(std::chrono::nanoseconds(image.arrived_ns()));
  const size_t bytes = image.SpaceUsedLong();
  std::lock_guard<std::mutex> lock(mutex_);
  if (!record_.runs.empty() && bytes_ + bytes <= kMaxBytes) {
    bytes_ += bytes;
    record_.runs.back().reports.push_back({std::move(image), received});
  }
}

void RequestTrace::AddEncode(int image_index, const worker::v1::PhaseSpan& span) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!record_.runs.empty() && bytes_ + sizeof(Encode) <= kMaxBytes) {
    bytes_ += sizeof(Encode);
    record_.runs.back().encodes.push_back({image_index, span});
  }
}

void RequestTrace::End(const absl::Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!record_.ended.has_value()) {
    record_.ended = Clock::now();
    record_.status = status;
    if (!record_.waits.back().end.has_value()) {
      record_.waits.back().end = record_.ended;
    }
  }
}

void RequestTrace::Sent() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!record_.sent.has_value()) {
    record_.sent = Clock::now();
  }
}

RequestTrace::Record RequestTrace::record() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return record_;
}

}  // namespace patchflow

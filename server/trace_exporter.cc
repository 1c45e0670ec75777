#include "server/trace_exporter.h"

#include <algorithm>
#include <utility>

#include "server/log.h"
#include "server/otlp.h"
#include "server/version.h"

namespace patchflow {
namespace {

constexpr size_t kMaxBatch = 128;  // Traces; a span takes about 200 bytes.
constexpr int kMaxTries = 5;

// As OTLP's specification lists them.
bool CanRetry(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

TraceExporter::TraceExporter(Options options, Send send, const TracingMetrics& metrics)
    : options_(std::move(options)),
      send_(std::move(send)),
      metrics_(metrics),
      thread_([this] { Run(); }) {}

TraceExporter::~TraceExporter() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    end_by_ = Clock::now() + ToClock(options_.last_tries);
  }
  changed_.notify_all();
  thread_.join();
}

void TraceExporter::Offer(std::shared_ptr<const RequestTrace> trace) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (waiting_.size() >= options_.max_waiting) {
      metrics_.dropped_queue_full->Increment();
      return;
    }
    waiting_.push_back({std::move(trace), Clock::now() + ToClock(options_.settle)});
  }
  changed_.notify_all();
}

TraceExporter::Batch TraceExporter::NextBatch() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ending_) {
    if (waiting_.empty()) {
      changed_.wait(lock);
    } else if (waiting_.front().due > Clock::now()) {
      changed_.wait_until(lock, waiting_.front().due, [this] { return ending_; });
    } else {
      break;
    }
  }
  Batch batch;
  const auto now = Clock::now();
  while (!waiting_.empty() && batch.size() < kMaxBatch &&
         (ending_ || waiting_.front().due <= now)) {
    batch.push_back(std::move(waiting_.front().trace));
    waiting_.pop_front();
  }
  return batch;
}

void TraceExporter::Run() {
  for (Batch batch = NextBatch(); !batch.empty(); batch = NextBatch()) {
    Export(batch);
  }
}

void TraceExporter::Export(const Batch& batch) {
  const absl::Status status = SendWithRetries(RequestOf(batch));
  const auto traces = static_cast<double>(batch.size());
  if (status.ok()) {
    metrics_.exported->Increment(traces);
  } else {
    metrics_.dropped_failed->Increment(traces);
    LogWarning(
        "traces could not be exported",
        {{"traces", static_cast<int64_t>(batch.size())},
         {"error", std::string(status.ToString(absl::StatusToStringMode::kWithNoExtraData))}});
  }
}

absl::Status TraceExporter::SendWithRetries(const Request& request) {
  absl::Duration pause = options_.back_off;
  for (int attempt = 1;; ++attempt) {
    absl::Duration timeout = options_.timeout;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (ending_) {
        timeout = std::min(timeout, absl::FromChrono(end_by_ - Clock::now()));
      }
    }
    if (timeout <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError("the server ends");
    }
    const absl::Status status = send_(request, timeout);
    if (status.ok() || !CanRetry(status) || attempt == kMaxTries || !SleepFor(pause)) {
      return status;
    }
    pause = 2 * pause;
  }
}

bool TraceExporter::SleepFor(absl::Duration duration) {
  std::unique_lock<std::mutex> lock(mutex_);
  return !changed_.wait_for(lock, ToClock(duration), [this] { return ending_; });
}

TraceExporter::Request TraceExporter::RequestOf(const Batch& batch) const {
  Request request;
  auto& spans = *request.add_resource_spans();
  auto& attributes = *spans.mutable_resource()->mutable_attributes();
  AddOtlpAttribute("service.name", options_.service_name, attributes);
  AddOtlpAttribute("service.version", kVersion, attributes);
  AddOtlpAttribute("service.instance.id", options_.instance, attributes);
  auto& scope = *spans.add_scope_spans();
  scope.mutable_scope()->set_name("patchflow");
  scope.mutable_scope()->set_version(kVersion);
  for (const auto& trace : batch) {
    AddOtlpSpans(trace->record(), scope);
  }
  return request;
}

}  // namespace patchflow

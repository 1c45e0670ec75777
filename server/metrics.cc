#include "server/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "server/build_info.h"
#include "server/errors.h"

namespace patchflow {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets& LatencyBuckets() {
  static const Buckets* buckets = new Buckets{.05, .1, .25, .5, 1,  2,  3,   5,   7.5, 10,
                                              15,  20, 30,  45, 60, 90, 120, 180, 300, 600};
  return *buckets;
}
const Buckets& ShortBuckets() {
  static const Buckets* buckets =
      new Buckets{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1};
  return *buckets;
}
const Buckets& WaitBuckets() {
  static const Buckets* buckets =
      new Buckets{.001, .005, .01, .05, .1, .5, 1, 2, 5, 10, 30, 60, 120, 300};
  return *buckets;
}
const Buckets& StepBuckets() {
  static const Buckets* buckets =
      new Buckets{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 30, 60};
  return *buckets;
}

constexpr const char* kCodes[] = {"OK",
                                  "CANCELLED",
                                  "INVALID_ARGUMENT",
                                  "DEADLINE_EXCEEDED",
                                  "NOT_FOUND",
                                  "INTERNAL",
                                  "ALREADY_EXISTS",
                                  "PERMISSION_DENIED",
                                  "RESOURCE_EXHAUSTED",
                                  "UNKNOWN",
                                  "UNAUTHENTICATED",
                                  "UNAVAILABLE"};
constexpr const char* kMethods[] = {
    "GenerateImages",   "GenerateImagesUnary", "FetchGeneration", "GetGeneration",
    "CancelGeneration", "GetGenerationTrace",  "ListModels",      "GetModel"};
constexpr const char* kRejections[] = {
    reason::kInvalidRequest,   reason::kLimitExceeded,      reason::kMalformedRequest,
    reason::kModelNotFound,    reason::kRequestIdConflict,  reason::kQueueFull,
    reason::kStarting,         reason::kDraining,           reason::kEngineRecovering,
    reason::kEngineFailed,     reason::kDeadlineUnmeetable, reason::kCancelledByRequest,
    reason::kPoisonRequest,    reason::kInternal,           reason::kUnauthenticated,
    reason::kPermissionDenied, reason::kRateLimited,        reason::kStoreFailed,
    reason::kAuditUnavailable, reason::kGpuMemoryBudget};
constexpr const char* kCancellations[] = {reason::kClientCancelled, reason::kCancelledByRequest};
constexpr const char* kJobFailures[] = {reason::kEngineFailed, reason::kGpuOutOfMemory,
                                        reason::kNonFiniteOutput, reason::kInternal};
constexpr char kNoModel[] = "none";
constexpr const char* kStages[] = {"text_encode", "denoise", "vae_decode", "encode_image"};

struct Resolution {
  const char* name;
  int64_t max_pixels;
};
constexpr Resolution kResolutions[] = {{"256", 256 * 256},    {"512", 512 * 512},
                                       {"1024", 1024 * 1024}, {"2048", 2048 * 2048},
                                       {"4096", 4096 * 4096}, {"larger", INT64_MAX}};

std::string CodeName(const absl::Status& status) { return absl::StatusCodeToString(status.code()); }

constexpr std::pair<v1::Priority, const char*> kPriorities[] = {
    {v1::PRIORITY_LOW, "low"}, {v1::PRIORITY_NORMAL, "normal"}, {v1::PRIORITY_HIGH, "high"}};

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

const char* ResolutionOf(const v1::EffectiveParams& params) {
  const int64_t pixels = int64_t{params.width()} * params.height();
  return std::find_if(std::begin(kResolutions), std::end(kResolutions),
                      [&](const Resolution& r) { return pixels <= r.max_pixels; })
      ->name;
}

Metrics::Metrics(const std::vector<std::string>& models, const std::vector<std::string>& groups)
    : process_(registry_), ranks_(registry_) {
  const auto counter = [this](const char* name, const char* help) {
    return &BuildCounter().Name(name).Help(help).Register(registry_);
  };
  const auto gauge = [this](const char* name, const char* help) {
    return &BuildGauge().Name(name).Help(help).Register(registry_);
  };
  started_ = counter("patchflow_requests_started_total", "Calls that came in.");
  for (const char* method : kMethods) {
    started_->Add({{"method", method}});
  }
  requests_ = counter("patchflow_requests_total", "Calls that ended, by outcome.");
  rejected_ = counter("patchflow_requests_rejected_total", "Calls refused at admission.");
  durations_ = &BuildHistogram()
                    .Name("patchflow_request_duration_seconds")
                    .Help(
                        "From a call's arrival to its end; resolution: of "
                        "calls that ended OK.")
                    .Register(registry_);
  bytes_ = counter("patchflow_response_bytes_total", "Bytes of messages sent to clients.");
  streams_open_ = &gauge("patchflow_streams_open", "Streams to clients.")->Add({});
  auto* reload_failures = counter("patchflow_security_reload_failures_total",
                                  "Files that were changed and could not be used.");
  auto* broken = gauge("patchflow_security_files_broken",
                       "1 while the files are broken and older ones are in use.");
  auto* expiry = gauge("patchflow_tls_certificate_expiry_timestamp_seconds",
                       "End of the certificate in use, since the Unix epoch; 0: none.");
  for (const std::string what : {"tls", "workers", "tokens"}) {
    security_[what] = {&reload_failures->Add({{"what", what}}), &broken->Add({{"what", what}}),
                       what == "tokens" ? nullptr : &expiry->Add({{"what", what}})};
  }
  draining_ = &gauge("patchflow_draining", "1 while new requests are refused.")->Add({});
  generations_live_ =
      &gauge("patchflow_generations_live", "Generations that wait or run.")->Add({});
  results_kept_ =
      &gauge("patchflow_results_kept", "Ended generations that can be fetched.")->Add({});
  results_kept_bytes_ =
      &gauge("patchflow_results_kept_bytes", "Memory that ended generations hold.")->Add({});
  store_generations_ =
      &gauge("patchflow_store_generations", "Detached generations on disk.")->Add({});
  store_bytes_ = &gauge("patchflow_store_bytes", "Disk that they hold.")->Add({});
  store_failures_ =
      &counter("patchflow_store_failures_total", "Writes to the store that failed.")->Add({});
  audit_waiting_ =
      &gauge("patchflow_audit_waiting_lines", "Lines of the audit log that wait for the disk.")
           ->Add({});
  audit_lost_ = &counter("patchflow_audit_lost_lines_total",
                         "Lines that the audit log could not take; it tells their number.")
                     ->Add({});
  audit_delay_ =
      &gauge("patchflow_audit_delay_seconds", "How long a line has waited for the disk.")->Add({});
  audit_behind_ = &gauge("patchflow_audit_behind",
                         "1 while requests are refused because the audit log can't be written.")
                       ->Add({});
  slow_clients_ =
      &counter("patchflow_slow_clients_total", "Streams dropped because the client did not read.")
           ->Add({});
  const BuildInfo& build = Build();
  gauge("patchflow_build_info", "1, with what the front end was built of.")
      ->Add({{"version", build.version},
             {"git_sha", build.git_sha},
             {"compiler", build.compiler},
             {"cuda", build.cuda},
             {"nccl", build.nccl},
             {"torch", build.torch}})
      .Set(1);
  for (const std::string& model : models) {
    AddModel(model);
  }
  AddModel(kNoModel);
  for (const std::string& group : groups) {
    groups_.emplace(group, GroupMetrics(registry_, group));
  }
  AddTracing();
}

void Metrics::AddTracing() {
  tracing_.exported = &BuildCounter()
                           .Name("patchflow_traces_exported_total")
                           .Help("Traces that the collector took.")
                           .Register(registry_)
                           .Add({});
  const auto dropped = [this](const char* why) {
    return &BuildCounter()
                .Name("patchflow_traces_dropped_total")
                .Help("Traces that were to be exported and were not.")
                .Register(registry_)
                .Add({{"reason", why}});
  };
  tracing_.dropped_queue_full = dropped("queue_full");
  tracing_.dropped_failed = dropped("export_failed");
}

void Metrics::AddModel(const std::string& name) {
  const prometheus::Labels of_model{{"model", name}};
  const auto labels = [&](const char* key, const std::string& value) {
    return prometheus::Labels{{"model", name}, {key, value}};
  };
  for (const char* code : kCodes) {
    if (std::string_view(code) != "OK") {
      durations_->Add({{"model", name}, {"code", code}, {"resolution", "none"}}, LatencyBuckets());
    }
    for (const char* method : kMethods) {
      requests_->Add({{"model", name}, {"code", code}, {"method", method}});
    }
  }
  for (const char* rejection : kRejections) {
    rejected_->Add(labels("reason", Lower(rejection)));
  }
  bytes_->Add(of_model);
  if (name == kNoModel) {
    return;
  }
  for (const Resolution& resolution : kResolutions) {
    durations_->Add({{"model", name}, {"code", "OK"}, {"resolution", resolution.name}},
                    LatencyBuckets());
  }
  const auto gauge = [&](const char* family, const char* help) {
    return &BuildGauge().Name(family).Help(help).Register(registry_).Add(of_model);
  };
  const auto counter = [&](const char* family, const char* help) {
    return &BuildCounter().Name(family).Help(help).Register(registry_).Add(of_model);
  };
  const auto counter_of = [&](const char* family, const char* help, const char* why) {
    return &BuildCounter().Name(family).Help(help).Register(registry_).Add(
        labels("reason", Lower(why)));
  };
  ModelMetrics& m = models_[name];
  m.ready = gauge("patchflow_ready", "1 while a group serves the model.");
  m.queue_depth = gauge("patchflow_queue_depth", "Requests that wait for a group.");
  for (const auto& [priority, label] : kPriorities) {
    m.queue_depth_of[priority] = &BuildGauge()
                                      .Name("patchflow_queue_depth_by_priority")
                                      .Help("Requests that wait, by class of priority.")
                                      .Register(registry_)
                                      .Add(labels("priority", label));
  }
  m.queue_capacity = gauge("patchflow_queue_capacity", "Most requests that may wait.");
  m.queue_oldest = gauge("patchflow_queue_oldest_seconds", "Age of the oldest that waits.");
  m.estimated_wait = gauge("patchflow_estimated_wait_seconds", "For a request that comes now.");
  m.running = gauge("patchflow_requests_running", "Requests that a group works on.");
  m.images = counter("patchflow_images_total", "Images made.");
  m.last_image = gauge("patchflow_last_image_timestamp_seconds",
                       "When the last image was made, since the Unix epoch; 0: none yet.");
  m.pixels = counter("patchflow_image_pixels_total", "Pixels of images made.");
  m.steps = counter("patchflow_denoise_steps_total", "Denoising steps of images made.");
  m.reruns = counter("patchflow_reruns_total", "Runs begun again after a worker was lost.");
  for (const char* why : kCancellations) {
    m.cancellations[why] =
        counter_of("patchflow_cancellations_total", "Generations that were cancelled.", why);
  }
  for (const char* why : kJobFailures) {
    m.job_failures[why] =
        counter_of("patchflow_job_failures_total", "Runs that a worker could not finish.", why);
  }
  AddHistograms(name, m);
}

void Metrics::AddHistograms(const std::string& name, ModelMetrics& m) {
  const prometheus::Labels of_model{{"model", name}};
  const auto labels = [&](const char* key, const std::string& value) {
    return prometheus::Labels{{"model", name}, {key, value}};
  };
  const auto histogram = [&](const char* family, const char* help, const Buckets& buckets,
                             const prometheus::Labels& with) {
    return &BuildHistogram().Name(family).Help(help).Register(registry_).Add(with, buckets);
  };
  m.admission_time = histogram("patchflow_admission_duration_seconds",
                               "From a request's arrival until it was queued or refused.",
                               ShortBuckets(), of_model);
  m.send_time =
      histogram("patchflow_send_duration_seconds",
                "From the last image made until its client had all.", WaitBuckets(), of_model);
  m.first_preview =
      histogram("patchflow_time_to_first_preview_seconds",
                "From a request's arrival to its first preview.", LatencyBuckets(), of_model);
  const char* cancel = "patchflow_cancel_latency_seconds";
  const char* cancel_help =
      "From a cancellation until the ranks are free of it; of one that waits, or in a batch that "
      "goes on, until it has ended.";
  m.cancel_queued = histogram(cancel, cancel_help, WaitBuckets(), labels("phase", "queued"));
  m.cancel_running = histogram(cancel, cancel_help, WaitBuckets(), labels("phase", "running"));
  m.requested_steps = histogram("patchflow_requested_steps", "Steps asked for.",
                                {1, 2, 4, 8, 14, 20, 28, 50, 100, 200}, of_model);
  m.requested_megapixels = histogram("patchflow_requested_megapixels", "Size asked for.",
                                     {.0625, .25, .5, 1, 2, 4, 8, 16, 64}, of_model);
  m.batch_size = histogram("patchflow_batch_size", "Images of a pass over the network.",
                           {1, 2, 4, 8, 16}, of_model);
  for (const auto& [priority, label] : kPriorities) {
    m.queue_wait[priority] = histogram("patchflow_queue_wait_seconds", "Time in the queue.",
                                       WaitBuckets(), labels("priority", label));
  }
  for (const char* stage : kStages) {
    m.stages[stage] = histogram("patchflow_stage_duration_seconds", "Time of a stage of an image.",
                                LatencyBuckets(), labels("stage", stage));
  }
  m.name = name;
  m.step_time = &BuildHistogram()
                     .Name("patchflow_denoise_step_duration_seconds")
                     .Help("Time of one step, as measured; layout: the worker's.")
                     .Register(registry_);
}

const ModelMetrics& Metrics::model_of(const std::string& name, const std::string& group) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto [found, is_new] = of_groups_.try_emplace({name, group}, models_.at(name));
  if (is_new) {
    found->second.gpu_oom = &groups_.at(group).gpu_oom();
  }
  return found->second;
}

std::string Metrics::Known(const std::string& model) const {
  return models_.count(model) != 0 ? model : "none";
}

void ModelMetrics::ObserveImage(const v1::EffectiveParams& params,
                                const worker::v1::ImageDone& done) const {
  images->Increment();
  last_image->SetToCurrentTime();
  pixels->Increment(static_cast<double>(params.width()) * params.height());
  steps->Increment(params.steps());
  for (const auto& timing : done.timings()) {
    auto found = stages.find(timing.stage());
    if (found != stages.end()) {
      found->second->Observe(absl::ToDoubleSeconds(FromProto(timing.duration())));
    }
  }
  prometheus::Histogram& step = step_time->Add(
      {{"model", name}, {"resolution", ResolutionOf(params)}, {"layout", params.layout()}},
      StepBuckets());
  for (const auto& time : done.step_times()) {
    step.Observe(absl::ToDoubleSeconds(FromProto(time)));
  }
}

void ModelMetrics::ObserveJobFailure(const absl::Status& status) const {
  const std::string why = ReasonOf(status);
  auto found = job_failures.find(why.empty() ? reason::kEngineFailed : why);
  if (found != job_failures.end()) {
    found->second->Increment();
  }
  if (gpu_oom != nullptr && why == reason::kGpuOutOfMemory) {
    gpu_oom->Increment();
  }
}

void ModelMetrics::ObserveCancellation(const absl::Status& status) const {
  auto found = cancellations.find(ReasonOf(status));
  if (found != cancellations.end()) {
    found->second->Increment();
  }
}

void Metrics::CallBegan(const char* method) { started_->Add({{"method", method}}).Increment(); }

void Metrics::CallEnded(const EndedCall& call) {
  const std::string code = CodeName(call.status);
  const std::string model = Known(call.model);
  requests_->Add({{"model", model}, {"code", code}, {"method", call.method}}).Increment();
  const bool generated = call.status.ok() && !call.resolution.empty();
  durations_
      ->Add(
          {{"model", model}, {"code", code}, {"resolution", generated ? call.resolution : "none"}},
          LatencyBuckets())
      .Observe(Seconds(call.duration));
}

void Metrics::Rejected(const std::string& model, const absl::Status& status) {
  rejected_->Add({{"model", Known(model)}, {"reason", Lower(ReasonOf(status))}}).Increment();
}

void Metrics::Admitted(const std::string& model, Clock::duration duration) {
  if (auto found = models_.find(model); found != models_.end()) {
    found->second.admission_time->Observe(Seconds(duration));
  }
}

void Metrics::Sent(const std::string& model, absl::Duration duration) {
  if (auto found = models_.find(model); found != models_.end()) {
    found->second.send_time->Observe(absl::ToDoubleSeconds(duration));
  }
}

void Metrics::FirstPreview(const std::string& model, Clock::duration duration) {
  if (auto found = models_.find(model); found != models_.end()) {
    found->second.first_preview->Observe(Seconds(duration));
  }
}

void Metrics::ResponseBytes(const std::string& model, size_t bytes) {
  bytes_->Add({{"model", Known(model)}}).Increment(static_cast<double>(bytes));
}

void Metrics::SetStore(int64_t generations, int64_t bytes, int64_t failures) {
  store_generations_->Set(static_cast<double>(generations));
  store_bytes_->Set(static_cast<double>(bytes));
  store_failures_->Increment(static_cast<double>(failures) - store_failures_->Value());
}

void Metrics::SetAudit(int64_t waiting, int64_t lost, absl::Duration delay, bool behind) {
  audit_waiting_->Set(static_cast<double>(waiting));
  audit_lost_->Increment(static_cast<double>(lost) - audit_lost_->Value());
  audit_delay_->Set(absl::ToDoubleSeconds(delay));
  audit_behind_->Set(behind ? 1 : 0);
}

std::string Metrics::Text(const std::function<void()>& refresh) {
  refresh();
  ranks_.Refresh();
  process_.Refresh();
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace patchflow

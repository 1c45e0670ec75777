#include "server/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>

#include "server/errors.h"
#include "server/version.h"

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

constexpr const char* kCodes[] = {
    "OK",         "CANCELLED",      "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND",  "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "INTERNAL",
    "UNAVAILABLE"};
constexpr const char* kMethods[] = {"GenerateImages", "GenerateImagesUnary", "FetchGeneration"};
constexpr const char* kRejections[] = {reason::kInvalidRequest,     reason::kLimitExceeded,
                                       reason::kMalformedRequest,   reason::kModelNotFound,
                                       reason::kRequestIdConflict,  reason::kQueueFull,
                                       reason::kStarting,           reason::kDraining,
                                       reason::kEngineRecovering,   reason::kEngineFailed,
                                       reason::kDeadlineUnmeetable, reason::kCancelledByRequest,
                                       reason::kPoisonRequest,      reason::kInternal};
constexpr const char* kStages[] = {"text_encode", "denoise", "vae_decode", "encode_image"};
constexpr const char* kStates[] = {"starting", "serving", "recovering", "failed"};

struct Resolution {
  const char* name;
  int64_t max_pixels;
};
constexpr Resolution kResolutions[] = {{"256", 256 * 256},    {"512", 512 * 512},
                                       {"1024", 1024 * 1024}, {"2048", 2048 * 2048},
                                       {"4096", 4096 * 4096}, {"larger", INT64_MAX}};

const char* ResolutionOf(const v1::EffectiveParams& params) {
  const int64_t pixels = int64_t{params.width()} * params.height();
  return std::find_if(std::begin(kResolutions), std::end(kResolutions),
                      [&](const Resolution& r) { return pixels <= r.max_pixels; })
      ->name;
}

std::string CodeName(const absl::Status& status) { return absl::StatusCodeToString(status.code()); }

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

Metrics::Metrics(const std::vector<std::string>& models, const std::vector<std::string>& groups) {
  const auto counter = [this](const char* name, const char* help) {
    return &BuildCounter().Name(name).Help(help).Register(registry_);
  };
  const auto gauge = [this](const char* name, const char* help) {
    return &BuildGauge().Name(name).Help(help).Register(registry_);
  };
  requests_ = counter("patchflow_requests_total", "Calls that ended, by outcome.");
  rejected_ = counter("patchflow_requests_rejected_total", "Calls refused at admission.");
  durations_ = &BuildHistogram()
                    .Name("patchflow_request_duration_seconds")
                    .Help("From a call's arrival to its end.")
                    .Register(registry_);
  bytes_ = counter("patchflow_response_bytes_total", "Bytes of messages sent to clients.");
  memory_ = gauge("patchflow_gpu_memory_bytes", "Device memory of a rank.");
  communication_ = gauge("patchflow_communication_bytes",
                         "Bytes that a rank sent to others since its worker started.");
  rank_up_ = gauge("patchflow_rank_up", "1 while the rank's worker sends heartbeats.");
  heartbeat_age_ = gauge("patchflow_rank_heartbeat_age_seconds", "Since the last heartbeat.");
  step_age_ =
      gauge("patchflow_rank_last_step_age_seconds", "Since the rank's last step or phase began.");
  streams_open_ = &gauge("patchflow_streams_open", "Streams to clients.")->Add({});
  slow_clients_ =
      &counter("patchflow_slow_clients_total", "Streams dropped because the client did not read.")
           ->Add({});
  gauge("patchflow_build_info", "1, with the version.")->Add({{"version", kVersion}}).Set(1);
  for (const std::string& model : models) {
    AddModel(model);
  }
  AddModel("none");
  for (const std::string& group : groups) {
    AddGroup(group);
  }
}

void Metrics::AddModel(const std::string& name) {
  const prometheus::Labels of_model{{"model", name}};
  const auto labels = [&](const char* key, const std::string& value) {
    return prometheus::Labels{{"model", name}, {key, value}};
  };
  for (const char* code : kCodes) {
    durations_->Add(labels("code", code), LatencyBuckets());
    for (const char* method : kMethods) {
      requests_->Add({{"model", name}, {"code", code}, {"method", method}});
    }
  }
  for (const char* rejection : kRejections) {
    rejected_->Add(labels("reason", Lower(rejection)));
  }
  bytes_->Add(of_model);
  if (name == "none") {
    return;
  }
  const auto gauge = [&](const char* family, const char* help) {
    return &BuildGauge().Name(family).Help(help).Register(registry_).Add(of_model);
  };
  const auto counter = [&](const char* family, const char* help) {
    return &BuildCounter().Name(family).Help(help).Register(registry_).Add(of_model);
  };
  const auto histogram = [&](const char* family, const char* help, const Buckets& buckets,
                             const prometheus::Labels& with) {
    return &BuildHistogram().Name(family).Help(help).Register(registry_).Add(with, buckets);
  };
  ModelMetrics& m = models_[name];
  m.ready = gauge("patchflow_ready", "1 while a group serves the model.");
  m.queue_depth = gauge("patchflow_queue_depth", "Requests that wait for a group.");
  m.queue_capacity = gauge("patchflow_queue_capacity", "Most requests that may wait.");
  m.queue_oldest = gauge("patchflow_queue_oldest_seconds", "Age of the oldest that waits.");
  m.estimated_wait = gauge("patchflow_estimated_wait_seconds", "For a request that comes now.");
  m.running = gauge("patchflow_requests_running", "Requests that a group works on.");
  m.images = counter("patchflow_images_total", "Images made.");
  m.pixels = counter("patchflow_image_pixels_total", "Pixels of images made.");
  m.steps = counter("patchflow_denoise_steps_total", "Denoising steps of images made.");
  m.reruns = counter("patchflow_reruns_total", "Runs begun again after a worker was lost.");
  const char* cancel = "patchflow_cancel_latency_seconds";
  const char* cancel_help = "From a cancellation to the group being free.";
  m.cancel_queued = histogram(cancel, cancel_help, WaitBuckets(), labels("phase", "queued"));
  m.cancel_running = histogram(cancel, cancel_help, WaitBuckets(), labels("phase", "running"));
  m.requested_steps = histogram("patchflow_requested_steps", "Steps asked for.",
                                {1, 2, 4, 8, 14, 20, 28, 50, 100, 200}, of_model);
  m.requested_megapixels = histogram("patchflow_requested_megapixels", "Size asked for.",
                                     {.0625, .25, .5, 1, 2, 4, 8, 16, 64}, of_model);
  for (auto [priority, label] : {std::pair{v1::PRIORITY_LOW, "low"},
                                 {v1::PRIORITY_NORMAL, "normal"},
                                 {v1::PRIORITY_HIGH, "high"}}) {
    m.queue_wait[priority] = histogram("patchflow_queue_wait_seconds", "Time in the queue.",
                                       WaitBuckets(), labels("priority", label));
  }
  for (const char* stage : kStages) {
    m.stages[stage] = histogram("patchflow_stage_duration_seconds", "Time of a stage of an image.",
                                LatencyBuckets(), labels("stage", stage));
  }
  for (const Resolution& resolution : kResolutions) {
    m.step_time[resolution.name] =
        histogram("patchflow_denoise_step_duration_seconds", "Time of one step, as measured.",
                  StepBuckets(), labels("resolution", resolution.name));
  }
}

void Metrics::AddGroup(const std::string& name) {
  const auto gauge = [&](const char* family, const char* help, prometheus::Labels labels) {
    labels["group"] = name;
    return &BuildGauge().Name(family).Help(help).Register(registry_).Add(labels);
  };
  GroupMetrics& g = groups_[name];
  for (const char* state : kStates) {
    g.state[state] =
        gauge("patchflow_group_state", "1 for the state it is in.", {{"state", state}});
  }
  g.state["starting"]->Set(1);
  g.restarts = gauge("patchflow_group_restarts", "Times that its worker was lost.", {});
  g.load_time = gauge("patchflow_model_load_seconds", "From its worker's start to ready.", {});
  g.warmup_time = gauge("patchflow_warmup_seconds", "Of that, warm-up.", {});
}

std::string Metrics::Known(const std::string& model) const {
  return models_.count(model) != 0 ? model : "none";
}

void ModelMetrics::ObserveImage(const v1::EffectiveParams& params,
                                const worker::v1::ImageDone& done) const {
  images->Increment();
  pixels->Increment(static_cast<double>(params.width()) * params.height());
  steps->Increment(params.steps());
  for (const auto& timing : done.timings()) {
    auto found = stages.find(timing.stage());
    if (found != stages.end()) {
      found->second->Observe(absl::ToDoubleSeconds(FromProto(timing.duration())));
    }
  }
  prometheus::Histogram* step = step_time.at(ResolutionOf(params));
  for (const auto& time : done.step_times()) {
    step->Observe(absl::ToDoubleSeconds(FromProto(time)));
  }
}

void Metrics::CallEnded(const std::string& model, const char* method, const absl::Status& status,
                        Clock::duration duration) {
  const std::string code = CodeName(status);
  const std::string known = Known(model);
  requests_->Add({{"model", known}, {"code", code}, {"method", method}}).Increment();
  durations_->Add({{"model", known}, {"code", code}}, LatencyBuckets()).Observe(Seconds(duration));
}

void Metrics::Rejected(const std::string& model, const absl::Status& status) {
  rejected_->Add({{"model", Known(model)}, {"reason", Lower(ReasonOf(status))}}).Increment();
}

void Metrics::ResponseBytes(const std::string& model, size_t bytes) {
  bytes_->Add({{"model", Known(model)}}).Increment(static_cast<double>(bytes));
}

void Metrics::Beat(const std::string& group, const worker::v1::WatchResponse& beat) {
  std::lock_guard<std::mutex> lock(beats_mutex_);
  beats_[group] = {Clock::now(), beat};
}

std::string Metrics::Text(const std::function<void()>& refresh) {
  refresh();
  {
    std::lock_guard<std::mutex> lock(beats_mutex_);
    const auto now = Clock::now();
    for (const auto& [group, last] : beats_) {
      const double age = Seconds(now - last.when);
      for (const auto& rank : last.beat.ranks()) {
        const prometheus::Labels labels{{"group", group}, {"rank", std::to_string(rank.rank())}};
        const auto memory = [&](const char* kind, uint64_t bytes) {
          prometheus::Labels with = labels;
          with["kind"] = kind;
          memory_->Add(with).Set(static_cast<double>(bytes));
        };
        memory("used", rank.memory_used_bytes());
        memory("peak", rank.memory_peak_bytes());
        memory("total", rank.memory_total_bytes());
        communication_->Add(labels).Set(static_cast<double>(rank.communication_bytes()));
        heartbeat_age_->Add(labels).Set(age);
        rank_up_->Add(labels).Set(age < 2.0 ? 1 : 0);
        step_age_->Add(labels).Set(absl::ToDoubleSeconds(FromProto(rank.step_age())) + age);
      }
    }
  }
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace patchflow

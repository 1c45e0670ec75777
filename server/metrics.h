// What the server counts and times, for Prometheus. Every series that depends on the configuration
// alone exists from the start, at 0. Labels come from closed sets: never a request id, a prompt, a
// seed or a client.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"
#include "server/generation.h"
#include "server/group_metrics.h"
#include "server/process_metrics.h"
#include "server/rank_metrics.h"

namespace patchflow {

// Of one model. Thread-safe, as all of prometheus-cpp's series are.
struct ModelMetrics {
  prometheus::Gauge* ready;
  prometheus::Gauge* queue_depth;
  std::map<v1::Priority, prometheus::Gauge*> queue_depth_of;
  prometheus::Gauge* queue_capacity;
  prometheus::Gauge* queue_oldest;
  prometheus::Gauge* estimated_wait;
  prometheus::Gauge* running;
  prometheus::Histogram* cancel_queued;
  prometheus::Histogram* cancel_running;
  prometheus::Histogram* requested_steps;
  prometheus::Histogram* requested_megapixels;
  prometheus::Histogram* batch_size;
  prometheus::Counter* images;
  prometheus::Counter* pixels;
  prometheus::Counter* steps;
  prometheus::Counter* reruns;
  std::map<std::string, prometheus::Counter*> cancellations;  // By ErrorInfo reason.
  std::map<std::string, prometheus::Counter*> job_failures;   // By ErrorInfo reason.
  prometheus::Counter* gpu_oom = nullptr;                     // Of a group: see model_of().
  prometheus::Gauge* last_image;
  prometheus::Histogram* admission_time;
  prometheus::Histogram* send_time;
  prometheus::Histogram* first_preview;
  std::map<v1::Priority, prometheus::Histogram*> queue_wait;
  std::map<std::string, prometheus::Histogram*> stages;
  std::string name;                                      // As labels say it.
  prometheus::Family<prometheus::Histogram>* step_time;  // By resolution and layout.

  // One finished image.
  void ObserveImage(const v1::EffectiveParams& params, const worker::v1::ImageDone& done) const;
  // A job that its worker could not finish: the ErrorInfo reason, ENGINE_FAILED where it has none.
  void ObserveJobFailure(const absl::Status& status) const;
  // A generation that ended: counted if somebody cancelled it.
  void ObserveCancellation(const absl::Status& status) const;
};

// Of files that are read again while the server runs.
struct SecurityMetrics {
  prometheus::Counter* failures;
  prometheus::Gauge* broken;
  prometheus::Gauge* certificate_expiry;  // Since the Unix epoch; 0 without TLS. Null: of tokens.
};

// Of traces that are exported; in traces, one for each generation.
struct TracingMetrics {
  prometheus::Counter* exported;
  prometheus::Counter* dropped_queue_full;
  prometheus::Counter* dropped_failed;
};

// A call that has ended.
struct EndedCall {
  std::string model;  // As asked for; counts as "none" if there is none of this name.
  const char* method = "";
  std::string resolution;  // ResolutionOf() what was generated; empty if nothing was.
  absl::Status status;
  Clock::duration duration{};
};

// The smallest of "256", "512", "1024", "2048", "4096" whose square holds so many pixels, else
// "larger".
const char* ResolutionOf(const v1::EffectiveParams& params);

class Metrics {
 public:
  // `models` and `groups` by name.
  Metrics(const std::vector<std::string>& models, const std::vector<std::string>& groups);

  ModelMetrics& model(const std::string& name) { return models_.at(name); }
  // The same series, and besides those that tell the model's groups apart. Lives as long as this.
  const ModelMetrics& model_of(const std::string& name, const std::string& group);
  // "tls", "workers", "tokens".
  SecurityMetrics& security(const std::string& what) { return security_.at(what); }
  GroupMetrics& group(const std::string& name) { return groups_.at(name); }
  const TracingMetrics& tracing() const { return tracing_; }

  // Every call that began ends: what has begun less what has ended is open.
  void CallBegan(const char* method);
  void CallEnded(const EndedCall& call);
  // A call was refused at admission, by its ErrorInfo reason.
  void Rejected(const std::string& model, const absl::Status& status);
  // Admission took so long, whatever came of it.
  void Admitted(const std::string& model, Clock::duration duration);
  // A call sent all that it had to, so long after the last image was made.
  void Sent(const std::string& model, absl::Duration duration);
  void FirstPreview(const std::string& model, Clock::duration duration);
  void ResponseBytes(const std::string& model, size_t bytes);
  prometheus::Gauge& streams_open() { return *streams_open_; }
  prometheus::Counter& slow_clients() { return *slow_clients_; }
  prometheus::Gauge& draining() { return *draining_; }
  prometheus::Gauge& generations_live() { return *generations_live_; }
  prometheus::Gauge& results_kept() { return *results_kept_; }
  prometheus::Gauge& results_kept_bytes() { return *results_kept_bytes_; }
  void SetStore(int64_t generations, int64_t bytes, int64_t failures);
  void SetAudit(int64_t waiting, int64_t lost, absl::Duration delay, bool behind);
  RankMetrics& ranks() { return ranks_; }

  // The text for Prometheus. `refresh` is called first: it sets the gauges that are read from
  // elsewhere.
  std::string Text(const std::function<void()>& refresh);

 private:
  void AddModel(const std::string& name);
  void AddHistograms(const std::string& name, ModelMetrics& m);
  void AddTracing();
  std::string Known(const std::string& model) const;

  prometheus::Registry registry_;
  std::map<std::string, ModelMetrics> models_;
  std::map<std::string, GroupMetrics> groups_;
  std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, ModelMetrics> of_groups_;  // (model, group)
  std::map<std::string, SecurityMetrics> security_;
  TracingMetrics tracing_;
  ProcessMetrics process_;
  RankMetrics ranks_;
  prometheus::Family<prometheus::Counter>* started_;
  prometheus::Family<prometheus::Counter>* requests_;
  prometheus::Family<prometheus::Counter>* rejected_;
  prometheus::Family<prometheus::Histogram>* durations_;
  prometheus::Family<prometheus::Counter>* bytes_;
  prometheus::Gauge* streams_open_;
  prometheus::Gauge* draining_;
  prometheus::Gauge* generations_live_;
  prometheus::Gauge* results_kept_;
  prometheus::Gauge* results_kept_bytes_;
  prometheus::Gauge* store_generations_;
  prometheus::Gauge* store_bytes_;
  prometheus::Counter* store_failures_;
  prometheus::Gauge* audit_waiting_;
  prometheus::Counter* audit_lost_;
  prometheus::Gauge* audit_delay_;
  prometheus::Gauge* audit_behind_;
  prometheus::Counter* slow_clients_;
};

}  // namespace patchflow

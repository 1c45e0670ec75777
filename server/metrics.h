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
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"
#include "server/generation.h"

namespace patchflow {

// Of one model. Thread-safe, as all of prometheus-cpp's series are.
struct ModelMetrics {
  prometheus::Gauge* ready;
  prometheus::Gauge* queue_depth;
  prometheus::Gauge* queue_capacity;
  prometheus::Gauge* queue_oldest;
  prometheus::Gauge* estimated_wait;
  prometheus::Gauge* running;
  prometheus::Histogram* cancel_queued;
  prometheus::Histogram* cancel_running;
  prometheus::Histogram* requested_steps;
  prometheus::Histogram* requested_megapixels;
  prometheus::Counter* images;
  prometheus::Counter* pixels;
  prometheus::Counter* steps;
  prometheus::Counter* reruns;
  std::map<v1::Priority, prometheus::Histogram*> queue_wait;
  std::map<std::string, prometheus::Histogram*> stages;
  std::map<std::string, prometheus::Histogram*> step_time;  // By resolution.

  // One finished image.
  void ObserveImage(const v1::EffectiveParams& params, const worker::v1::ImageDone& done) const;
};

// Of one group.
struct GroupMetrics {
  std::map<std::string, prometheus::Gauge*> state;  // One of them is 1.
  prometheus::Gauge* restarts;
  prometheus::Gauge* load_time;
  prometheus::Gauge* warmup_time;
};

class Metrics {
 public:
  // `models` and `groups` by name.
  Metrics(const std::vector<std::string>& models, const std::vector<std::string>& groups);

  ModelMetrics& model(const std::string& name) { return models_.at(name); }
  GroupMetrics& group(const std::string& name) { return groups_.at(name); }

  // A call has ended. An unknown model counts as "none".
  void CallEnded(const std::string& model, const char* method, const absl::Status& status,
                 Clock::duration duration);
  // A call was refused at admission, by its ErrorInfo reason.
  void Rejected(const std::string& model, const absl::Status& status);
  void ResponseBytes(const std::string& model, size_t bytes);
  prometheus::Gauge& streams_open() { return *streams_open_; }
  prometheus::Counter& slow_clients() { return *slow_clients_; }
  void Beat(const std::string& group, const worker::v1::WatchResponse& beat);

  // The text for Prometheus. `refresh` is called first: it sets the gauges that are read from
  // elsewhere.
  std::string Text(const std::function<void()>& refresh);

 private:
  void AddModel(const std::string& name);
  void AddGroup(const std::string& name);
  std::string Known(const std::string& model) const;

  prometheus::Registry registry_;
  std::map<std::string, ModelMetrics> models_;
  std::map<std::string, GroupMetrics> groups_;
  prometheus::Family<prometheus::Counter>* requests_;
  prometheus::Family<prometheus::Counter>* rejected_;
  prometheus::Family<prometheus::Histogram>* durations_;
  prometheus::Family<prometheus::Counter>* bytes_;
  prometheus::Family<prometheus::Gauge>* memory_;
  prometheus::Family<prometheus::Gauge>* communication_;
  prometheus::Family<prometheus::Gauge>* rank_up_;
  prometheus::Family<prometheus::Gauge>* heartbeat_age_;
  prometheus::Family<prometheus::Gauge>* step_age_;
  prometheus::Gauge* streams_open_;
  prometheus::Counter* slow_clients_;

  std::mutex beats_mutex_;
  struct LastBeat {
    Clock::time_point when;
    worker::v1::WatchResponse beat;
  };
  std::map<std::string, LastBeat> beats_;
};

}  // namespace patchflow

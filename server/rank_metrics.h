// What the workers' ranks report, for Prometheus.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <map>
#include <mutex>
#include <string>

#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"

namespace patchflow {

// Thread-safe.
class RankMetrics {
 public:
  explicit RankMetrics(prometheus::Registry& registry);

  void Beat(const std::string& group, const worker::v1::WatchResponse& beat);
  // What the group runs now, and what its (first) worker is made of; replaces what was told before.
  void Describe(const std::string& group, const worker::v1::DescribeResponse& info);
  // Sets the gauges from the last beats.
  void Refresh();

 private:
  // Counts on from the beat before; a new worker begins at 0.
  void CountOperations(const std::string& group, const worker::v1::RankStatus& before,
                       const worker::v1::RankStatus& now);

  // The series of an info family that a group has now; the one that it had before goes.
  static void Replace(prometheus::Family<prometheus::Gauge>& family, const prometheus::Labels& now,
                      prometheus::Gauge*& told);

  struct LastBeat {
    Clock::time_point when;
    worker::v1::WatchResponse beat;
  };

  prometheus::Family<prometheus::Gauge>* memory_;
  prometheus::Family<prometheus::Gauge>* communication_;
  prometheus::Family<prometheus::Counter>* communication_total_;
  prometheus::Family<prometheus::Counter>* communication_time_;
  prometheus::Family<prometheus::Counter>* operations_;
  prometheus::Family<prometheus::Gauge>* rank_info_;
  prometheus::Family<prometheus::Gauge>* config_info_;
  prometheus::Family<prometheus::Gauge>* worker_build_info_;
  prometheus::Family<prometheus::Gauge>* rank_up_;
  prometheus::Family<prometheus::Gauge>* heartbeat_age_;
  prometheus::Family<prometheus::Gauge>* step_age_;

  std::mutex mutex_;
  std::map<std::string, LastBeat> beats_;              // By group.
  std::map<std::string, prometheus::Gauge*> configs_;  // By group.
  std::map<std::string, prometheus::Gauge*> builds_;   // By group.
};

}  // namespace patchflow

// What the workers' ranks report, for Prometheus.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <cstdint>
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

  // Series of ranks that the group had before and that the beat does not name go, counters too: one
  // that comes back counts from 0, which Prometheus takes for a reset. A group that is silent, or
  // names no ranks, keeps its series.
  void Beat(const std::string& group, const worker::v1::WatchResponse& beat);
  // What the group runs now, and what its (first) worker is made of; replaces what was told before.
  void Describe(const std::string& group, const worker::v1::DescribeResponse& info);
  // Sets the gauges from the last beats.
  void Refresh();

 private:
  // Of one kind of operation. The worker counts from its own start, the counters over all workers.
  struct Operation {
    prometheus::Counter* calls = nullptr;
    prometheus::Counter* bytes = nullptr;
    prometheus::Counter* time = nullptr;
    worker::v1::CommunicationTime last;
  };
  struct Rank {
    worker::v1::RankStatus last;
    std::map<std::string, prometheus::Gauge*> memory;  // By kind.
    prometheus::Gauge* communication = nullptr;
    prometheus::Gauge* up = nullptr;
    prometheus::Gauge* heartbeat_age = nullptr;
    prometheus::Gauge* step_age = nullptr;
    prometheus::Gauge* info = nullptr;  // Null until it has told its device.
    std::map<std::string, Operation> operations;
  };
  struct GroupRanks {
    Clock::time_point last_beat;
    std::map<int, Rank> ranks;
  };

  Rank MakeRank(const prometheus::Labels& labels);
  void Remove(const Rank& rank);
  void CountOperation(Rank& rank, const prometheus::Labels& labels,
                      const worker::v1::CommunicationTime& now);
  // The series of an info family that there is now; the one that it replaces goes.
  static void Replace(prometheus::Family<prometheus::Gauge>& family, const prometheus::Labels& now,
                      prometheus::Gauge*& told);

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
  std::map<std::string, GroupRanks> groups_;  // By name, as those that follow.
  std::map<std::string, prometheus::Gauge*> configs_;
  std::map<std::string, prometheus::Gauge*> builds_;
};

}  // namespace patchflow

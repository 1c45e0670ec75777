#include "server/rank_metrics.h"

#include <utility>

namespace patchflow {
namespace {

constexpr double kRankDownSeconds = 2;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

RankMetrics::RankMetrics(prometheus::Registry& registry) {
  const auto gauge = [&](const char* name, const char* help) {
    return &prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  };
  const auto counter = [&](const char* name, const char* help) {
    return &prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  };
  memory_ = gauge("patchflow_gpu_memory_bytes", "Device memory of a rank.");
  communication_ = gauge("patchflow_communication_bytes",
                         "Bytes that a rank sent to others since its worker started.");
  communication_total_ = counter("patchflow_communication_bytes_total",
                                 "Bytes that a rank sent to others, over all its workers.");
  communication_time_ =
      counter("patchflow_comm_duration_seconds_total",
              "Time that a rank, on GPUs its stream, waited for others, by operation.");
  operations_ = counter("patchflow_comm_operations_total",
                        "Operations between ranks that were issued or replayed.");
  rank_info_ = gauge("patchflow_rank_info", "1, with the rank's device.");
  config_info_ = gauge("patchflow_config_info", "1, with what a group runs.");
  worker_build_info_ =
      gauge("patchflow_worker_build_info", "1, with what a group's worker runs with.");
  rank_up_ = gauge("patchflow_rank_up", "1 while the rank's worker sends heartbeats.");
  heartbeat_age_ = gauge("patchflow_rank_heartbeat_age_seconds", "Since the last heartbeat.");
  step_age_ =
      gauge("patchflow_rank_last_step_age_seconds", "Since the rank's last step or phase began.");
}

void RankMetrics::Beat(const std::string& group, const worker::v1::WatchResponse& beat) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::map<int, worker::v1::RankStatus> before;
  for (const auto& rank : beats_[group].beat.ranks()) {
    before[rank.rank()] = rank;
  }
  for (const auto& rank : beat.ranks()) {
    CountOperations(group, before[rank.rank()], rank);
    const uint64_t sent = rank.communication_bytes();
    const uint64_t last = before[rank.rank()].communication_bytes();
    communication_total_->Add({{"group", group}, {"rank", std::to_string(rank.rank())}})
        .Increment(
            static_cast<double>(sent >= last ? sent - last : sent));  // A new worker: from 0.
  }
  beats_[group] = {Clock::now(), beat};
}

void RankMetrics::CountOperations(const std::string& group, const worker::v1::RankStatus& before,
                                  const worker::v1::RankStatus& now) {
  std::map<std::string, std::pair<int64_t, double>> counted;
  for (const auto& time : before.communication_times()) {
    counted[time.operation()] = {time.calls(), absl::ToDoubleSeconds(FromProto(time.time()))};
  }
  for (const auto& time : now.communication_times()) {
    const prometheus::Labels labels{
        {"group", group}, {"rank", std::to_string(now.rank())}, {"op", time.operation()}};
    const double seconds = absl::ToDoubleSeconds(FromProto(time.time()));
    const auto [calls_before, seconds_before] = counted[time.operation()];
    const bool same_worker = time.calls() >= calls_before && seconds >= seconds_before;
    operations_->Add(labels).Increment(
        static_cast<double>(time.calls() - (same_worker ? calls_before : 0)));
    communication_time_->Add(labels).Increment(seconds - (same_worker ? seconds_before : 0));
  }
}

void RankMetrics::Describe(const std::string& group, const worker::v1::DescribeResponse& info) {
  std::lock_guard<std::mutex> lock(mutex_);
  Replace(*config_info_,
          {{"group", group},
           {"layout", info.layout()},
           {"ranks", std::to_string(info.ranks())},
           {"dtype", info.model().dtype()},
           {"device", info.model().device()},
           {"model_digest", info.model().digest()}},
          configs_[group]);
  Replace(*worker_build_info_,
          {{"group", group},
           {"build_id", info.build().build_id()},
           {"cuda", info.build().cuda()},
           {"nccl", info.build().nccl()},
           {"torch", info.build().torch()}},
          builds_[group]);
}

void RankMetrics::Replace(prometheus::Family<prometheus::Gauge>& family,
                          const prometheus::Labels& now, prometheus::Gauge*& told) {
  prometheus::Gauge& series = family.Add(now);
  series.Set(1);
  if (told != nullptr && told != &series) {
    family.Remove(told);
  }
  told = &series;
}

void RankMetrics::Refresh() {
  std::lock_guard<std::mutex> lock(mutex_);
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
      prometheus::Labels with_device = labels;
      with_device["device"] = rank.device();
      rank_info_->Add(with_device).Set(1);
      communication_->Add(labels).Set(static_cast<double>(rank.communication_bytes()));
      heartbeat_age_->Add(labels).Set(age);
      rank_up_->Add(labels).Set(age < kRankDownSeconds ? 1 : 0);
      step_age_->Add(labels).Set(absl::ToDoubleSeconds(FromProto(rank.step_age())) + age);
    }
  }
}

}  // namespace patchflow

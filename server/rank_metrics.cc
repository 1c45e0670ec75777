#include "server/rank_metrics.h"

#include <set>
#include <utility>

namespace patchflow {
namespace {

constexpr double kRankDownSeconds = 2;

using worker::v1::RankStatus;

struct MemoryKind {
  const char* name;
  uint64_t (RankStatus::*bytes)() const;
};
constexpr MemoryKind kMemoryKinds[] = {
    {"total", &RankStatus::memory_total_bytes},
    {"used", &RankStatus::device_used_bytes},
    {"peak", &RankStatus::device_peak_bytes},
    {"torch_allocated", &RankStatus::memory_used_bytes},
    {"torch_reserved", &RankStatus::memory_reserved_bytes},
    {"torch_peak", &RankStatus::memory_peak_bytes},
};

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

prometheus::Labels With(prometheus::Labels labels, const char* name, const std::string& value) {
  labels[name] = value;
  return labels;
}

}  // namespace

RankMetrics::RankMetrics(prometheus::Registry& registry) {
  const auto gauge = [&](const char* name, const char* help) {
    return &prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  };
  const auto counter = [&](const char* name, const char* help) {
    return &prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  };
  memory_ = gauge("patchflow_gpu_memory_bytes",
                  "Memory of a rank's device: total; used, by whatever program, and its peak; "
                  "torch_*: of the worker's tensors, and reserved for them.");
  communication_ = gauge("patchflow_communication_bytes",
                         "Bytes that a rank sent to others since its worker started.");
  communication_total_ =
      counter("patchflow_communication_bytes_total",
              "Bytes that a rank sent to others, over all its workers, by operation.");
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

RankMetrics::Rank RankMetrics::MakeRank(const prometheus::Labels& labels) {
  Rank rank;
  for (const MemoryKind& kind : kMemoryKinds) {
    rank.memory[kind.name] = &memory_->Add(With(labels, "kind", kind.name));
  }
  rank.communication = &communication_->Add(labels);
  rank.up = &rank_up_->Add(labels);
  rank.heartbeat_age = &heartbeat_age_->Add(labels);
  rank.step_age = &step_age_->Add(labels);
  return rank;
}

void RankMetrics::Remove(const Rank& rank) {
  for (const auto& [kind, series] : rank.memory) {
    memory_->Remove(series);
  }
  communication_->Remove(rank.communication);
  rank_up_->Remove(rank.up);
  heartbeat_age_->Remove(rank.heartbeat_age);
  step_age_->Remove(rank.step_age);
  if (rank.info != nullptr) {
    rank_info_->Remove(rank.info);
  }
  for (const auto& [name, operation] : rank.operations) {
    operations_->Remove(operation.calls);
    communication_total_->Remove(operation.bytes);
    communication_time_->Remove(operation.time);
  }
}

void RankMetrics::Beat(const std::string& group, const worker::v1::WatchResponse& beat) {
  std::lock_guard<std::mutex> lock(mutex_);
  GroupRanks& known = groups_[group];
  known.last_beat = Clock::now();
  std::set<int> named;
  for (const RankStatus& status : beat.ranks()) {
    const prometheus::Labels labels{{"group", group}, {"rank", std::to_string(status.rank())}};
    named.insert(status.rank());
    auto found = known.ranks.find(status.rank());
    if (found == known.ranks.end()) {
      found = known.ranks.emplace(status.rank(), MakeRank(labels)).first;
    }
    Rank& rank = found->second;
    rank.last = status;
    for (const auto& operation : status.communication_times()) {
      CountOperation(rank, labels, operation);
    }
    if (!status.device().empty()) {  // A worker that loads does not know it yet.
      Replace(*rank_info_, With(labels, "device", status.device()), rank.info);
    }
  }
  std::erase_if(known.ranks, [&](const auto& entry) {
    const bool gone = !named.empty() && named.count(entry.first) == 0;
    if (gone) {
      Remove(entry.second);
    }
    return gone;
  });
}

void RankMetrics::CountOperation(Rank& rank, const prometheus::Labels& labels,
                                 const worker::v1::CommunicationTime& now) {
  Operation& operation = rank.operations[now.operation()];
  if (operation.calls == nullptr) {
    const prometheus::Labels of_operation = With(labels, "op", now.operation());
    operation.calls = &operations_->Add(of_operation);
    operation.bytes = &communication_total_->Add(of_operation);
    operation.time = &communication_time_->Add(of_operation);
  }
  const auto seconds = [](const worker::v1::CommunicationTime& of) {
    return absl::ToDoubleSeconds(FromProto(of.time()));
  };
  worker::v1::CommunicationTime& last = operation.last;
  if (now.calls() < last.calls() || now.bytes() < last.bytes() || seconds(now) < seconds(last)) {
    last.Clear();  // A new worker.
  }
  operation.calls->Increment(static_cast<double>(now.calls() - last.calls()));
  operation.bytes->Increment(static_cast<double>(now.bytes() - last.bytes()));
  operation.time->Increment(seconds(now) - seconds(last));
  last = now;
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
  for (const auto& [name, group] : groups_) {
    const double age = Seconds(now - group.last_beat);
    for (const auto& [number, rank] : group.ranks) {
      for (const MemoryKind& kind : kMemoryKinds) {
        rank.memory.at(kind.name)->Set(static_cast<double>((rank.last.*kind.bytes)()));
      }
      rank.communication->Set(static_cast<double>(rank.last.communication_bytes()));
      rank.heartbeat_age->Set(age);
      rank.up->Set(age < kRankDownSeconds ? 1 : 0);
      rank.step_age->Set(absl::ToDoubleSeconds(FromProto(rank.last.step_age())) + age);
    }
  }
}

}  // namespace patchflow

#include "client/load_stats.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "client/server_error.h"

namespace patchflow {
namespace {

constexpr double kLeast = 1e-6;
constexpr double kGrowth = 1.01;  // From one bucket to the next.

}  // namespace

void Percentiles::Add(double seconds) {
  seconds = std::max(seconds, kLeast);
  ++counts_[static_cast<int>(std::floor(std::log(seconds / kLeast) / std::log(kGrowth)))];
  ++count_;
  sum_ += seconds;
  max_ = std::max(max_, seconds);
}

double Percentiles::Quantile(double part) const {
  const auto rank = static_cast<int64_t>(std::ceil(part * static_cast<double>(count_)));
  if (rank >= count_) return max_;
  int64_t seen = 0;
  for (const auto& [bucket, count] : counts_) {
    seen += count;
    if (seen >= rank) return std::min(max_, kLeast * std::pow(kGrowth, bucket + 0.5));
  }
  return 0;
}

nlohmann::json Percentiles::Json() const {
  return {{"count", count_},         {"mean", mean()},
          {"p50", Quantile(0.5)},    {"p90", Quantile(0.9)},
          {"p95", Quantile(0.95)},   {"p99", Quantile(0.99)},
          {"p999", Quantile(0.999)}, {"max", max_}};
}

std::string OutcomeName(const absl::Status& status) {
  std::string name = absl::StatusCodeToString(status.code());
  if (const auto info = DetailOf<google::rpc::ErrorInfo>(status); info && !info->reason().empty())
    absl::StrAppend(&name, "/", info->reason());
  return name;
}

void LoadStats::Add(const LoadOutcome& outcome, absl::Duration limit, absl::Time window_end) {
  late.Add(outcome.late_s);
  Outcome& times = outcomes[OutcomeName(outcome.status)];
  times.total.Add(outcome.total_s);
  if (outcome.accept_s >= 0) times.accept.Add(outcome.accept_s);
  if (outcome.wait_s >= 0) times.wait.Add(outcome.wait_s);
  if (!outcome.finished) return;
  images += static_cast<int64_t>(outcome.images.size());
  reruns += outcome.attempts > 1 ? 1 : 0;
  const bool is_good = outcome.total_s <= absl::ToDoubleSeconds(limit);
  good += is_good ? 1 : 0;
  if (outcome.due + absl::Seconds(outcome.total_s) > window_end) return;
  ++in_window;
  good_in_window += is_good ? 1 : 0;
}

int64_t LoadStats::ended() const {
  int64_t sum = 0;
  for (const auto& [name, outcome] : outcomes) sum += outcome.total.count();
  return sum;
}

int64_t LoadStats::succeeded() const {
  const auto found = outcomes.find("OK");
  return found == outcomes.end() ? 0 : found->second.total.count();
}

int64_t LoadStats::broken() const {
  const auto found = outcomes.find("DATA_LOSS");
  return found == outcomes.end() ? 0 : found->second.total.count();
}

}  // namespace patchflow

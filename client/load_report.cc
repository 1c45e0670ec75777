#include "client/load_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace patchflow {
namespace {

// "3.1 ms", "12.4 s"
std::string TimeText(double seconds) {
  return seconds < 1 ? absl::StrFormat("%.2f ms", 1000 * seconds)
                     : absl::StrFormat("%.2f s", seconds);
}

std::string LevelText(const LoadLevel& level) {
  return level.open() ? absl::StrFormat("rate %g/s", level.rate_hz)
                      : absl::StrFormat("concurrency %d", level.concurrency);
}

nlohmann::json RowJson(const LoadRow& row) {
  const LoadStats& stats = row.stats;
  nlohmann::json json = {{"mode", row.level.open() ? "open" : "closed"},
                         {"window_s", stats.window_s},
                         {"sent", stats.sent},
                         {"not_sent", stats.not_sent},
                         {"ended", stats.ended()},
                         {"succeeded", stats.succeeded()},
                         {"throughput_hz", stats.throughput_hz()},
                         {"goodput_hz", stats.goodput_hz()},
                         {"images", stats.images},
                         {"reruns", stats.reruns},
                         {"late_s", stats.late.Json()},
                         {"outcomes", nlohmann::json::object()}};
  if (row.level.open()) {
    json["rate_hz"] = row.level.rate_hz;
  } else {
    json["concurrency"] = row.level.concurrency;
  }
  for (const auto& [name, outcome] : stats.outcomes)
    json["outcomes"][name] = {{"count", outcome.total.count()},
                              {"accept_s", outcome.accept.Json()},
                              {"wait_s", outcome.wait.Json()},
                              {"total_s", outcome.total.Json()}};
  return json;
}

std::string TableLine(const std::string& name, const char* what, const Percentiles& times) {
  if (times.count() == 0) return "";
  return absl::StrFormat("  %-34s %-6s %8d %10s %10s %10s %10s %10s\n", name, what, times.count(),
                         TimeText(times.Quantile(0.5)), TimeText(times.Quantile(0.9)),
                         TimeText(times.Quantile(0.99)), TimeText(times.Quantile(0.999)),
                         TimeText(times.max()));
}

}  // namespace

nlohmann::json LoadJson(const LoadPlan& plan, const std::vector<LoadRow>& rows) {
  const LoadOptions& options = plan.options;
  nlohmann::json json = {{"client_version", PATCHFLOW_VERSION},
                         {"limit_s", absl::ToDoubleSeconds(plan.limit)},
                         {"options",
                          {{"mix", options.mix},
                           {"images", options.images},
                           {"seed", options.seed},
                           {"connections", options.connections},
                           {"warm_up_s", absl::ToDoubleSeconds(plan.warm_up)},
                           {"cancels", options.cancels},
                           {"cancel_calls", options.cancel_calls},
                           {"disconnects", options.disconnects},
                           {"deadlines", options.deadlines},
                           {"within_s", absl::ToDoubleSeconds(plan.within)}}},
                         {"rows", nlohmann::json::array()}};
  for (const LoadRow& row : rows) json["rows"].push_back(RowJson(row));
  return json;
}

std::string LoadText(const LoadPlan& plan, const std::vector<LoadRow>& rows) {
  std::string text;
  for (const LoadRow& row : rows) {
    const LoadStats& stats = row.stats;
    absl::StrAppend(
        &text, LevelText(row.level), ": ",
        absl::StrFormat("%d sent in %.1f s, %d succeeded, %.2f/s, of them %.2f/s within %s\n",
                        stats.sent, stats.window_s, stats.succeeded(), stats.throughput_hz(),
                        stats.goodput_hz(), absl::FormatDuration(plan.limit)));
    if (stats.not_sent > 0)
      absl::StrAppend(&text, "  ", stats.not_sent, " arrivals not sent: --max-in-flight ",
                      plan.options.max_in_flight, "\n");
    if (stats.reruns > 0)
      absl::StrAppend(&text, "  ", stats.reruns, " ran again after a worker was lost\n");
    absl::StrAppendFormat(&text, "  %-34s %-6s %8s %10s %10s %10s %10s %10s\n", "OUTCOME", "TIME",
                          "COUNT", "P50", "P90", "P99", "P99.9", "MAX");
    for (const auto& [name, outcome] : stats.outcomes)
      absl::StrAppend(&text, TableLine(name, "wait", outcome.wait),
                      TableLine(name, "total", outcome.total));
    if (row.level.open())
      absl::StrAppend(&text, TableLine("(sent late by this program)", "late", stats.late));
  }
  return text;
}

std::string LoadProgressText(const LoadProgress& progress) {
  const LoadStats& stats = progress.stats;
  std::string text = absl::StrFormat("%s, %.0f s: %d sent, %d in flight", LevelText(progress.level),
                                     progress.seconds, progress.sent, progress.in_flight);
  const auto ok = stats.outcomes.find("OK");
  if (ok != stats.outcomes.end()) {
    const Percentiles& total = ok->second.total;
    absl::StrAppend(&text, ", ", total.count(), " OK, p50 ", TimeText(total.Quantile(0.5)),
                    ", p99 ", TimeText(total.Quantile(0.99)));
  }
  const int64_t others = stats.ended() - stats.succeeded();
  if (others > 0) absl::StrAppend(&text, ", ", others, " ended otherwise");
  return text;
}

}  // namespace patchflow

// What a level of load measured.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "client/load_call.h"

namespace patchflow {

// Times whose number does not matter to the memory they take. Quantiles are right within 0.5 %.
class Percentiles {
 public:
  // Seconds; below 1 us counts as 1 us.
  void Add(double seconds);
  int64_t count() const { return count_; }
  // The smallest time that `part` (0 to 1) of all do not exceed; 0 of none.
  double Quantile(double part) const;
  double max() const { return max_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  // {"count", "mean", "p50", "p90", "p95", "p99", "p999", "max"}, seconds.
  nlohmann::json Json() const;

 private:
  std::map<int, int64_t> counts_;  // By the logarithm of the time.
  int64_t count_ = 0;
  double sum_ = 0;
  double max_ = 0;
};

// "OK", "RESOURCE_EXHAUSTED/QUEUE_FULL", "CANCELLED"
std::string OutcomeName(const absl::Status& status);

// Of the requests that count. Not thread-safe.
struct LoadStats {
  struct Outcome {
    Percentiles accept;
    Percentiles wait;
    Percentiles total;
  };

  int64_t sent = 0;
  int64_t not_sent = 0;  // Arrivals beyond max_in_flight.
  int64_t good = 0;      // Succeeded within the limit.
  int64_t images = 0;
  int64_t reruns = 0;     // Successes whose work began again, a worker having been lost.
  int64_t in_window = 0;  // Successes before the end of the window.
  int64_t good_in_window = 0;
  double window_s = 0;
  Percentiles late;
  std::map<std::string, Outcome> outcomes;  // By OutcomeName.

  void Add(const LoadOutcome& outcome, absl::Duration limit, absl::Time window_end);
  int64_t ended() const;
  int64_t succeeded() const;
  int64_t broken() const;  // Streams that broke the rules.
  double throughput_hz() const {
    return window_s > 0 ? static_cast<double>(in_window) / window_s : 0;
  }
  double goodput_hz() const {
    return window_s > 0 ? static_cast<double>(good_in_window) / window_s : 0;
  }
};

}  // namespace patchflow

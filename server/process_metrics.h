// The figures of the process itself, under the names that every Prometheus
// client uses.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

namespace patchflow {

// process_cpu_seconds_total, process_resident_memory_bytes, process_virtual_memory_bytes,
// process_open_fds, process_max_fds, process_threads, process_start_time_seconds.
class ProcessMetrics {
 public:
  explicit ProcessMetrics(prometheus::Registry& registry);
  // Reads /proc/self; about 50 us. A figure that cannot be read keeps its value. One thread at a
  // time.
  void Refresh();

 private:
  prometheus::Counter* cpu_;
  prometheus::Gauge* resident_;
  prometheus::Gauge* virtual_;
  prometheus::Gauge* open_files_;
  prometheus::Gauge* max_files_;
  prometheus::Gauge* threads_;
};

}  // namespace patchflow

// Sends the spans of ended generations to an OpenTelemetry collector, in the background.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.pb.h"
#include "server/metrics.h"
#include "server/request_trace.h"

namespace patchflow {

// Thread-safe. A trace waits `settle` after its generation's end, so that what comes just
// afterwards (the end of the job at the group, the last bytes to the client) is in it. A collector
// that cannot be reached is tried again, five times a batch; meanwhile more traces wait, and what
// does not fit any more is dropped and counted.
class TraceExporter {
 public:
  using Request = opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
  // Blocks, for at most `timeout`. Called by one thread.
  using Send = std::function<absl::Status(const Request& request, absl::Duration timeout)>;
  struct Options {
    std::string service_name = "patchflow";
    std::string instance = {};  // service.instance.id
    size_t max_waiting = 2048;  // Traces.
    absl::Duration settle = absl::Seconds(1);
    absl::Duration timeout = absl::Seconds(10);    // Of one try.
    absl::Duration back_off = absl::Seconds(1);    // Before the second try; doubles.
    absl::Duration last_tries = absl::Seconds(2);  // For what waits at the end.
  };
  TraceExporter(Options options, Send send, const TracingMetrics& metrics);
  // Sends what waits, once, within `last_tries`.
  ~TraceExporter();
  TraceExporter(const TraceExporter&) = delete;
  TraceExporter& operator=(const TraceExporter&) = delete;

  // Takes it, or drops it if too many wait. Never blocks.
  void Offer(std::shared_ptr<const RequestTrace> trace);

 private:
  struct Waiting {
    std::shared_ptr<const RequestTrace> trace;
    Clock::time_point due;
  };
  using Batch = std::vector<std::shared_ptr<const RequestTrace>>;

  void Run();
  // Those that are due, when there are some; all, once it ends. Empty at the end.
  Batch NextBatch();
  void Export(const Batch& batch);
  absl::Status SendWithRetries(const Request& request);
  // False if it ended meanwhile.
  bool SleepFor(absl::Duration duration);
  Request RequestOf(const Batch& batch) const;

  const Options options_;
  const Send send_;
  const TracingMetrics metrics_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Waiting> waiting_;
  bool ending_ = false;
  Clock::time_point end_by_;
  std::thread thread_;
};

}  // namespace patchflow

// Traces of generations: begun, kept for a while, exported.
#pragma once

#include <memory>

#include "server/request_trace.h"
#include "server/trace_exporter.h"
#include "server/trace_ring.h"

namespace patchflow {

// Thread-safe; never blocks.
class Tracer {
 public:
  struct Options {
    size_t recent = 1000;     // Traces kept; 0: none.
    double sample_ratio = 1;  // Of generations whose caller did not decide: exported.
  };
  // `exporter`, null if there is none, must outlive this.
  Tracer(const Options& options, TraceExporter* exporter);

  // Of a generation that is about to be queued; null if traces are neither kept nor exported.
  std::shared_ptr<RequestTrace> Begin(const GenerationSpec& spec, const TraceOrigin& origin);
  // It was not queued after all. Null is nothing.
  void Forget(const std::shared_ptr<RequestTrace>& trace);
  // Its generation has ended. Null is nothing.
  void Ended(const std::shared_ptr<RequestTrace>& trace, const absl::Status& status);
  std::shared_ptr<const RequestTrace> Find(const GenerationKey& key) const {
    return ring_.Find(key);
  }

 private:
  const Options options_;
  TraceExporter* const exporter_;
  TraceRing ring_;
};

}  // namespace patchflow

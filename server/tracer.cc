#include "server/tracer.h"

#include "server/random.h"

namespace patchflow {
namespace {

constexpr size_t kRingBytes = size_t{64} << 20;

}  // namespace

Tracer::Tracer(const Options& options, TraceExporter* exporter)
    : options_(options), exporter_(exporter), ring_(options.recent, kRingBytes) {}

std::shared_ptr<RequestTrace> Tracer::Begin(const GenerationSpec& spec, const TraceOrigin& origin) {
  if (options_.recent == 0 && exporter_ == nullptr) {
    return nullptr;
  }
  const bool sampled = options_.sample_ratio >= 1 || RandomBetween(0, 1) < options_.sample_ratio;
  auto trace = std::make_shared<RequestTrace>(spec, origin, sampled);
  ring_.Add(trace);
  return trace;
}

void Tracer::Forget(const std::shared_ptr<RequestTrace>& trace) {
  if (trace != nullptr) {
    ring_.Forget(*trace);
  }
}

void Tracer::Ended(const std::shared_ptr<RequestTrace>& trace, const absl::Status& status) {
  if (trace == nullptr) {
    return;
  }
  trace->End(status);
  ring_.Ended(*trace);
  if (exporter_ != nullptr && trace->sampled()) {
    exporter_->Offer(trace);
  }
}

}  // namespace patchflow

// Speaks to an OpenTelemetry collector over gRPC.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/trace_exporter.h"

namespace patchflow {

// To tracing.otlp, or null if that is empty; with TLS if tracing.ca names authorities. Connects
// with the first export. NOT_FOUND, naming the key, if that file cannot be read.
absl::StatusOr<TraceExporter::Send> MakeOtlpSender(const TracingConfig& config);

// Null if `send` is.
std::unique_ptr<TraceExporter> MakeTraceExporter(const TracingConfig& config,
                                                 TraceExporter::Send send,
                                                 const TracingMetrics& metrics);

}  // namespace patchflow

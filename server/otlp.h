// Spans in OpenTelemetry's protocol.
#pragma once

#include <string>

#include "opentelemetry/proto/trace/v1/trace.pb.h"
#include "server/request_trace.h"

namespace patchflow {

// Appends every span of the trace. Names get the prefix "patchflow."; the root is of kind SERVER
// and a run of kind CLIENT; steps are events of their span. Attributes: "patchflow." and the name.
void AddOtlpSpans(const RequestTrace::Record& record,
                  opentelemetry::proto::trace::v1::ScopeSpans& out);

// An attribute that is a text.
void AddOtlpAttribute(
    const std::string& key, const std::string& value,
    google::protobuf::RepeatedPtrField<opentelemetry::proto::common::v1::KeyValue>& out);

}  // namespace patchflow

#include "server/otlp.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/trace_spans.h"

namespace patchflow {
namespace {

using Otlp = opentelemetry::proto::trace::v1::Span;
using opentelemetry::proto::trace::v1::Status;

std::string BytesOf(uint64_t id) {
  std::string bytes(8, '\0');
  for (int i = 7; i >= 0; --i, id >>= 8) {
    bytes[static_cast<size_t>(i)] = static_cast<char>(id & 0xFF);
  }
  return bytes;
}

std::string IdBytes(const std::string& hex) {
  uint64_t id = 0;
  return !hex.empty() && absl::SimpleHexAtoi(hex, &id) ? BytesOf(id) : "";
}

Otlp::SpanKind KindOf(const std::string& name) {
  return name == "generate" ? Otlp::SPAN_KIND_SERVER
         : name == "run"    ? Otlp::SPAN_KIND_CLIENT
                            : Otlp::SPAN_KIND_INTERNAL;
}

void AddSteps(const v1::TraceSpan& span, int64_t zero_unix_ns, Otlp& out) {
  int64_t at_ns = span.steps_begin_ns();
  for (int step = 0; step < span.step_times_ns_size(); ++step) {
    at_ns += span.step_times_ns(step);
    auto* event = out.add_events();
    event->set_name("step done");
    event->set_time_unix_nano(static_cast<uint64_t>(zero_unix_ns + at_ns));
    auto* attribute = event->add_attributes();
    attribute->set_key("patchflow.step");
    attribute->mutable_value()->set_int_value(step + 1);
  }
}

}  // namespace

void AddOtlpAttribute(
    const std::string& key, const std::string& value,
    google::protobuf::RepeatedPtrField<opentelemetry::proto::common::v1::KeyValue>& out) {
  auto* attribute = out.Add();
  attribute->set_key(key);
  attribute->mutable_value()->set_string_value(value);
}

void AddOtlpSpans(const RequestTrace::Record& record,
                  opentelemetry::proto::trace::v1::ScopeSpans& out) {
  const v1::GetGenerationTraceResponse trace = SpansOf(record);
  const int64_t zero_unix_ns = absl::ToUnixNanos(record.arrived_at);
  const std::string trace_id = BytesOf(record.root.trace_high) + BytesOf(record.root.trace_low);
  for (const v1::TraceSpan& span : trace.spans()) {
    Otlp& made = *out.add_spans();
    made.set_trace_id(trace_id);
    made.set_span_id(IdBytes(span.span_id()));
    made.set_parent_span_id(IdBytes(span.parent_span_id()));
    made.set_name(absl::StrCat("patchflow.", span.name()));
    made.set_kind(KindOf(span.name()));
    made.set_start_time_unix_nano(static_cast<uint64_t>(zero_unix_ns + span.begin_ns()));
    made.set_end_time_unix_nano(static_cast<uint64_t>(zero_unix_ns + span.end_ns()));
    made.set_flags(1);
    for (const auto& [key, value] : span.attributes()) {
      AddOtlpAttribute(absl::StrCat("patchflow.", key), value, *made.mutable_attributes());
    }
    AddSteps(span, zero_unix_ns, made);
  }
  if (!record.status.ok() && out.spans_size() >= trace.spans_size() && trace.spans_size() > 0) {
    Status& status = *out.mutable_spans(out.spans_size() - trace.spans_size())->mutable_status();
    status.set_code(Status::STATUS_CODE_ERROR);
    status.set_message(ReasonOf(record.status));
  }
}

}  // namespace patchflow

#include "client/chrome_trace.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace patchflow {
namespace {

using nlohmann::ordered_json;

constexpr int kProcess = 1;

double Microseconds(int64_t ns) { return static_cast<double>(ns) / 1000; }

// The front end, rank 0, 1, ..., everything else: rows in the order to show them.
std::pair<int, std::string> OrderOf(const std::string& row) {
  int rank = 0;
  absl::string_view rest = row;
  if (row == "front end") return {-1, row};
  if (absl::ConsumePrefix(&rest, "rank ") && absl::SimpleAtoi(rest, &rank)) return {rank, row};
  return {1 << 20, row};
}

ordered_json Metadata(const char* name, int thread, ordered_json arguments) {
  return {{"name", name},
          {"ph", "M"},
          {"pid", kProcess},
          {"tid", thread},
          {"args", std::move(arguments)}};
}

ordered_json Complete(const std::string& name, int thread, int64_t begin_ns, int64_t end_ns) {
  return {{"name", name},
          {"ph", "X"},
          {"pid", kProcess},
          {"tid", thread},
          {"ts", Microseconds(begin_ns)},
          {"dur", Microseconds(end_ns - begin_ns)}};
}

std::string TitleOf(const v1::TraceSpan& span) {
  const auto image = span.attributes().find("image");
  if (image == span.attributes().end()) return span.name();
  const std::string of = absl::StrCat("image ", image->second);
  return span.name() == "rank" ? of : absl::StrCat(span.name(), " ", of);
}

void AddSteps(const v1::TraceSpan& span, int thread, ordered_json& events) {
  int64_t at_ns = span.steps_begin_ns();
  for (int step = 0; step < span.step_times_ns_size(); ++step) {
    const int64_t end_ns = at_ns + span.step_times_ns(step);
    events.push_back(Complete(absl::StrCat("step ", step + 1), thread, at_ns, end_ns));
    at_ns = end_ns;
  }
}

}  // namespace

ordered_json ChromeTrace(const v1::GetGenerationTraceResponse& trace) {
  std::map<std::pair<int, std::string>, int> threads;
  for (const v1::TraceSpan& span : trace.spans()) threads[OrderOf(span.row())] = 0;
  ordered_json events = ordered_json::array();
  events.push_back(
      Metadata("process_name", 0, {{"name", absl::StrCat("request ", trace.request_id())}}));
  int thread = 0;
  for (auto& [row, number] : threads) {
    number = ++thread;
    events.push_back(Metadata("thread_name", number, {{"name", row.second}}));
    events.push_back(Metadata("thread_sort_index", number, {{"sort_index", number}}));
  }
  for (const v1::TraceSpan& span : trace.spans()) {
    const int of_row = threads.at(OrderOf(span.row()));
    ordered_json event = Complete(TitleOf(span), of_row, span.begin_ns(), span.end_ns());
    ordered_json& arguments = event["args"] = ordered_json::object();
    arguments["span_id"] = span.span_id();
    const std::map<std::string, std::string> sorted(span.attributes().begin(),
                                                    span.attributes().end());
    for (const auto& [key, value] : sorted) arguments[key] = value;
    events.push_back(std::move(event));
    AddSteps(span, of_row, events);
  }
  return {{"traceEvents", std::move(events)},
          {"displayTimeUnit", "ms"},
          {"otherData",
           {{"request_id", trace.request_id()},
            {"trace_id", trace.trace_id()},
            {"begin_time", google::protobuf::util::TimeUtil::ToString(trace.begin_time())}}}};
}

}  // namespace patchflow

#include "server/trace_spans.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace patchflow {
namespace {

constexpr char kFrontEnd[] = "front end";
constexpr uint64_t kAdmission = 0;  // Numbers of children; see WaitSpan() and RunSpan().
constexpr uint64_t kSend = 1;

int64_t Nanoseconds(Clock::time_point when) {
  return std::chrono::nanoseconds(when.time_since_epoch()).count();
}

const char* NameOf(worker::v1::JobPhase phase) {
  switch (phase) {
    case worker::v1::JOB_PHASE_TEXT:
      return "text";
    case worker::v1::JOB_PHASE_DENOISE:
      return "steps";
    case worker::v1::JOB_PHASE_DECODE:
      return "decode";
    case worker::v1::JOB_PHASE_ENCODE:
      return "encode";
    default:
      return "unknown";
  }
}

class Builder {
 public:
  explicit Builder(const RequestTrace::Record& record)
      : record_(record), zero_ns_(Nanoseconds(record.arrived)), now_(Clock::now()) {}

  v1::GetGenerationTraceResponse Build() {
    out_.set_request_id(record_.request_id);
    out_.set_trace_id(TraceIdOf(record_.root));
    const int64_t begin_ns = absl::ToUnixNanos(record_.arrived_at);
    out_.mutable_begin_time()->set_seconds(begin_ns / 1000000000);
    out_.mutable_begin_time()->set_nanos(static_cast<int32_t>(begin_ns % 1000000000));
    AddRoot();
    const uint64_t root = record_.root.span;
    Add("admission", ChildSpan(root, kAdmission), root, record_.arrived, record_.accepted);
    for (size_t i = 0; i < record_.waits.size(); ++i) {
      Add("queue", WaitSpan(root, i), root, record_.waits[i].begin, record_.waits[i].end);
    }
    for (size_t i = 0; i < record_.runs.size(); ++i) {
      AddRun(record_.runs[i], RunSpan(root, i));
    }
    if (record_.ended.has_value() && record_.sent.has_value()) {
      // While the group hears of the end too.
      Add("send", ChildSpan(root, kSend), root, *record_.ended, record_.sent).set_row("sender");
    }
    return std::move(out_);
  }

 private:
  int64_t At(Clock::time_point when) const { return Nanoseconds(when) - zero_ns_; }

  v1::TraceSpan& Add(const char* name, uint64_t id, uint64_t parent, Clock::time_point begin,
                     std::optional<Clock::time_point> end) {
    v1::TraceSpan& span = *out_.add_spans();
    span.set_name(name);
    span.set_span_id(HexOf(id));
    span.set_parent_span_id(parent == 0 ? "" : HexOf(parent));
    span.set_row(kFrontEnd);
    span.set_begin_ns(At(begin));
    span.set_end_ns(std::max(span.begin_ns(), At(end.value_or(now_))));
    if (!end.has_value()) {
      (*span.mutable_attributes())["open"] = "true";
    }
    return span;
  }

  void AddRoot() {
    auto end = record_.ended;
    if (end.has_value()) {  // Runs hear of it, and clients have all, a little later.
      for (const RequestTrace::Run& run : record_.runs) {
        end = std::max(*end, run.end.value_or(*end));
      }
      end = std::max(*end, record_.sent.value_or(*end));
    }
    v1::TraceSpan& span =
        Add("generate", record_.root.span, record_.parent_span, record_.arrived, end);
    auto& attributes = *span.mutable_attributes();
    attributes["request_id"] = record_.request_id;
    attributes["model"] = record_.model;
    if (record_.ended.has_value()) {
      attributes["code"] = absl::StatusCodeToString(record_.status.code());
    }
  }

  void AddRun(const RequestTrace::Run& run, uint64_t id) {
    v1::TraceSpan& span = Add("run", id, record_.root.span, run.begin, run.end);
    (*span.mutable_attributes())["group"] = run.group;
    (*span.mutable_attributes())["attempt"] = absl::StrCat(run.attempt);
    if (run.end.has_value()) {
      (*span.mutable_attributes())["code"] = absl::StatusCodeToString(run.status.code());
    }
    within_ = {span.begin_ns(), span.end_ns()};
    uint64_t child = 0;
    for (const RequestTrace::Report& report : run.reports) {
      const ClockOffset offset = OffsetOf(run.begin, report);
      for (const worker::v1::RankTrace& rank : report.image.ranks()) {
        AddRank(rank, report.image.image_index(), offset, ChildSpan(id, child++), id);
      }
    }
    for (const RequestTrace::Encode& encode : run.encodes) {
      v1::TraceSpan& out = AddWorkers("encode", ChildSpan(id, child++), id, "encoder", encode.span,
                                      OffsetOfImage(run, encode.image_index));
      (*out.mutable_attributes())["image"] = absl::StrCat(encode.image_index);
    }
  }

  // Of the worker that has the image: rank 0's.
  static ClockOffset OffsetOfImage(const RequestTrace::Run& run, int image_index) {
    for (const RequestTrace::Report& report : run.reports) {
      const auto& ranks = report.image.ranks();
      if (report.image.image_index() == image_index &&
          std::any_of(ranks.begin(), ranks.end(), [](const auto& r) { return r.rank() == 0; })) {
        return OffsetOf(run.begin, report);
      }
    }
    return {};
  }

  void AddRank(const worker::v1::RankTrace& rank, int image_index, const ClockOffset& offset,
               uint64_t id, uint64_t parent) {
    if (rank.phases().empty()) {
      return;
    }
    worker::v1::PhaseSpan whole = rank.phases(0);
    whole.set_end_ns(rank.phases().rbegin()->end_ns());
    const std::string row = absl::StrCat("rank ", rank.rank());
    v1::TraceSpan& span = AddWorkers("rank", id, parent, row, whole, offset);
    auto& attributes = *span.mutable_attributes();
    attributes["rank"] = absl::StrCat(rank.rank());
    attributes["image"] = absl::StrCat(image_index);
    if (offset.error_ns > 0) {
      attributes["clock_error_ns"] = absl::StrCat(offset.error_ns);
    }
    uint64_t child = 0;
    for (const worker::v1::PhaseSpan& phase : rank.phases()) {
      v1::TraceSpan& out =
          AddWorkers(NameOf(phase.phase()), ChildSpan(id, child++), id, row, phase, offset);
      if (phase.phase() == worker::v1::JOB_PHASE_DENOISE && rank.steps_begin_ns() != 0) {
        AddSteps(rank, offset, out);
      }
    }
  }

  v1::TraceSpan& AddWorkers(const char* name, uint64_t id, uint64_t parent, const std::string& row,
                            const worker::v1::PhaseSpan& span, const ClockOffset& offset) {
    v1::TraceSpan& out = *out_.add_spans();
    out.set_name(name);
    out.set_span_id(HexOf(id));
    out.set_parent_span_id(HexOf(parent));
    out.set_row(row);
    out.set_begin_ns(Within(span.begin_ns() + offset.ns));
    out.set_end_ns(std::max(out.begin_ns(), Within(span.end_ns() + offset.ns)));
    return out;
  }

  // The device's clock may run a little ahead of the host's: no step ends after its phase.
  void AddSteps(const worker::v1::RankTrace& rank, const ClockOffset& offset,
                v1::TraceSpan& span) const {
    int64_t at =
        std::clamp(rank.steps_begin_ns() + offset.ns - zero_ns_, span.begin_ns(), span.end_ns());
    span.set_steps_begin_ns(at);
    for (const int64_t time_ns : rank.step_times_ns()) {
      const int64_t next = std::clamp(at + time_ns, at, span.end_ns());
      span.add_step_times_ns(next - at);
      at = next;
    }
  }
  // A time of this host's clock, as one of the run that is being added.
  int64_t Within(int64_t clock_ns) const {
    return std::clamp(clock_ns - zero_ns_, within_.first, within_.second);
  }

  const RequestTrace::Record& record_;
  const int64_t zero_ns_;
  const Clock::time_point now_;
  std::pair<int64_t, int64_t> within_;
  v1::GetGenerationTraceResponse out_;
};

}  // namespace

// The job went out at `asked` and came at received_ns; the report went out at sent_ns and came at
// `report.received`: the offset lies between two bounds, however long the ways were.
ClockOffset OffsetOf(Clock::time_point asked, const RequestTrace::Report& report) {
  const int64_t low = Nanoseconds(asked) - report.image.received_ns();
  const int64_t high = Nanoseconds(report.received) - report.image.sent_ns();
  if (low <= 0 && high >= 0) {
    return {};
  }
  return {low + (high - low) / 2, std::max<int64_t>(1, (high - low + 1) / 2)};
}

v1::GetGenerationTraceResponse SpansOf(const RequestTrace::Record& record) {
  return Builder(record).Build();
}

}  // namespace patchflow

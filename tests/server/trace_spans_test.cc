#include "server/trace_spans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "server/otlp.h"
#include "server/trace_ring.h"

namespace patchflow {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

int64_t Ns(Clock::time_point when) {
  return std::chrono::nanoseconds(when.time_since_epoch()).count();
}

// What a worker whose clock is `ahead` reports of an image whose text began at `begin`: text 10 ms,
// two steps of 20 ms, decode 5 ms, on each of two ranks.
worker::v1::ImageTrace ReportAt(Clock::time_point begin, Clock::duration ahead = {}) {
  worker::v1::ImageTrace report;
  const int64_t zero = Ns(begin + ahead);
  report.set_received_ns(zero - 1'000'000);
  report.set_sent_ns(zero + 56'000'000);
  for (int i = 0; i < 2; ++i) {
    auto& rank = *report.add_ranks();
    rank.set_rank(i);
    for (auto [phase, from, to] : {std::tuple{worker::v1::JOB_PHASE_TEXT, 0, 10'000'000},
                                   {worker::v1::JOB_PHASE_DENOISE, 10'000'000, 50'000'000},
                                   {worker::v1::JOB_PHASE_DECODE, 50'000'000, 55'000'000}}) {
      auto& span = *rank.add_phases();
      span.set_phase(phase);
      span.set_begin_ns(zero + from);
      span.set_end_ns(zero + to);
    }
    rank.set_steps_begin_ns(zero + 11'000'000);
    rank.add_step_times_ns(19'000'000);
    rank.add_step_times_ns(21'000'000);  // 1 ms longer than the phase.
  }
  return report;
}

GenerationSpec SpecOf(const std::string& id) {
  GenerationSpec spec;
  spec.request_id = id;
  spec.owner.name = "studio";
  spec.accepted.mutable_effective()->set_model("shapes");
  return spec;
}

// A generation that came at 0, was accepted at 1 ms, waited until 10 ms, ran until 80 ms, ended at
// 79 ms and was sent at 85 ms.
RequestTrace::Record RecordAt(Clock::time_point zero, Clock::duration ahead = {}) {
  RequestTrace::Record record;
  record.request_id = "r";
  record.model = "shapes";
  record.root = {1, 2, 3, true};
  record.parent_span = 0xAB;
  record.arrived = zero;
  record.arrived_at = absl::FromUnixSeconds(1000);
  record.accepted = zero + milliseconds(1);
  record.waits.push_back({record.accepted, zero + milliseconds(10)});
  RequestTrace::Run run;
  run.group = "g";
  run.begin = zero + milliseconds(10);
  run.end = zero + milliseconds(80);
  run.reports.push_back({ReportAt(zero + milliseconds(12), ahead), zero + milliseconds(69)});
  worker::v1::PhaseSpan encode;
  encode.set_phase(worker::v1::JOB_PHASE_ENCODE);
  encode.set_begin_ns(Ns(zero + milliseconds(68) + ahead));
  encode.set_end_ns(Ns(zero + milliseconds(75) + ahead));
  run.encodes.push_back({0, encode});
  record.runs.push_back(run);
  record.ended = zero + milliseconds(79);
  record.sent = zero + milliseconds(85);
  return record;
}

std::vector<std::string> NamesOf(const v1::GetGenerationTraceResponse& trace) {
  std::vector<std::string> names;
  for (const auto& span : trace.spans()) {
    names.push_back(span.name());
  }
  return names;
}

void ExpectNested(const v1::GetGenerationTraceResponse& trace) {
  std::map<std::string, const v1::TraceSpan*> spans;
  for (const v1::TraceSpan& span : trace.spans()) {
    EXPECT_LE(span.begin_ns(), span.end_ns()) << span.name();
    if (!spans.empty()) {
      ASSERT_EQ(spans.count(span.parent_span_id()), 1U) << span.name() << " before its parent";
      const v1::TraceSpan& parent = *spans[span.parent_span_id()];
      EXPECT_GE(span.begin_ns(), parent.begin_ns()) << span.name() << " in " << parent.name();
      EXPECT_LE(span.end_ns(), parent.end_ns()) << span.name() << " in " << parent.name();
    }
    EXPECT_TRUE(spans.emplace(span.span_id(), &span).second) << "an id is used twice";
  }
}

TEST(TraceSpansTest, NestsWhatTheFrontEndAndEachRankDid) {
  const auto trace = SpansOf(RecordAt(Clock::now()));
  EXPECT_EQ(trace.trace_id(), "00000000000000010000000000000002");
  EXPECT_EQ(trace.begin_time().seconds(), 1000);
  EXPECT_THAT(NamesOf(trace),
              ElementsAre("generate", "admission", "queue", "run", "rank", "text", "steps",
                          "decode", "rank", "text", "steps", "decode", "encode", "send"));
  ExpectNested(trace);
  EXPECT_EQ(trace.spans(0).parent_span_id(), "00000000000000ab") << "the caller's";
  EXPECT_EQ(trace.spans(0).end_ns(), 85'000'000) << "until the client had all";
  EXPECT_EQ(trace.spans(3).attributes().at("group"), "g");
  EXPECT_EQ(trace.spans(3).span_id(), HexOf(RunSpan(3, 0))) << "what the worker was told";
  const v1::TraceSpan& rank = trace.spans(8);
  EXPECT_EQ(rank.row(), "rank 1");
  EXPECT_EQ(rank.begin_ns(), 12'000'000);
  EXPECT_EQ(rank.attributes().count("clock_error_ns"), 0U) << "one clock";
}

TEST(TraceSpansTest, LaysStepsOneAfterTheOtherWithinTheirPhase) {
  const v1::TraceSpan steps = SpansOf(RecordAt(Clock::now())).spans(6);
  EXPECT_EQ(steps.steps_begin_ns(), 23'000'000);
  EXPECT_THAT(steps.step_times_ns(), ElementsAre(19'000'000, 20'000'000))
      << "cut at the phase's end";
}

TEST(TraceSpansTest, MovesTheClockOfAnotherHost) {
  for (const auto ahead : {std::chrono::hours(30), -std::chrono::hours(7)}) {
    const auto trace = SpansOf(RecordAt(Clock::now(), ahead));
    ExpectNested(trace);
    // The job left at 10 ms and came at 11; the report left at 68 and came at 69: both took 1 ms.
    EXPECT_EQ(trace.spans(4).begin_ns(), 12'000'000);
    EXPECT_EQ(trace.spans(4).attributes().at("clock_error_ns"), "1000000");
    EXPECT_EQ(trace.spans(12).name(), "encode");
    EXPECT_EQ(trace.spans(12).begin_ns(), 68'000'000);
  }
}

TEST(TraceSpansTest, ShowsWhatHasNotEnded) {
  RequestTrace trace(SpecOf("r"), {}, true);
  EXPECT_THAT(NamesOf(SpansOf(trace.record())), ElementsAre("generate", "admission", "queue"));
  EXPECT_EQ(SpansOf(trace.record()).spans(2).attributes().at("open"), "true");
  trace.BeginRun("g", 1);
  EXPECT_EQ(SpansOf(trace.record()).spans(2).attributes().count("open"), 0U);
  EXPECT_EQ(SpansOf(trace.record()).spans(3).attributes().at("open"), "true");
  trace.EndRun(absl::UnavailableError("lost"));
  trace.Requeued();
  trace.BeginRun("h", 2);
  trace.AddReport(ReportAt(Clock::now()));
  trace.EndRun(absl::OkStatus());
  trace.End(absl::OkStatus());
  trace.End(absl::InternalError("too late"));
  const auto spans = SpansOf(trace.record());
  ExpectNested(spans);
  EXPECT_THAT(NamesOf(spans),
              ElementsAre("generate", "admission", "queue", "queue", "run", "run", "rank", "text",
                          "steps", "decode", "rank", "text", "steps", "decode"));
  EXPECT_EQ(spans.spans(0).attributes().at("code"), "OK");
  EXPECT_EQ(spans.spans(4).attributes().at("code"), "UNAVAILABLE");
  EXPECT_EQ(spans.spans(5).attributes().at("attempt"), "2");
}

TEST(TraceSpansTest, TakesAReportToHaveComeWhenItCame) {
  RequestTrace trace(SpecOf("r"), {}, true);
  trace.BeginRun("g", 1);
  worker::v1::ImageTrace report = ReportAt(Clock::now());
  trace.AddReport(report);
  report.set_arrived_ns(12345);
  trace.AddReport(report);
  const auto reports = trace.record().runs[0].reports;
  EXPECT_LT(Clock::now() - reports[0].received, std::chrono::seconds(10));
  EXPECT_EQ(Ns(reports[1].received), 12345);
}

TEST(TraceSpansTest, ContinuesTheCallersTrace) {
  const TraceContext caller{5, 6, 7, false};
  RequestTrace trace(SpecOf("r"), {Clock::now(), caller}, true);
  EXPECT_FALSE(trace.sampled()) << "the caller decides";
  const TraceContext run = trace.BeginRun("g", 1);
  EXPECT_EQ(run.trace_high, 5U);
  EXPECT_EQ(run.trace_low, 6U);
  EXPECT_NE(run.span, 7U);
  EXPECT_EQ(SpansOf(trace.record()).spans(0).parent_span_id(), "0000000000000007");
}

TEST(TraceSpansTest, BoundsTheMemoryOfOneRequest) {
  RequestTrace trace(SpecOf("r"), {}, true);
  trace.BeginRun("g", 1);
  for (int i = 0; i < 10000; ++i) {
    trace.AddReport(ReportAt(Clock::now()));
    trace.AddEncode(i, {});
  }
  EXPECT_GT(trace.bytes(), 200U << 10);
  EXPECT_LE(trace.bytes(), 256U << 10);
}

TEST(TraceSpansTest, BecomesOtlp) {
  RequestTrace::Record record = RecordAt(Clock::now());
  record.status = absl::InternalError("x");
  opentelemetry::proto::trace::v1::ScopeSpans out;
  out.add_spans();  // Of another trace.
  AddOtlpSpans(record, out);
  ASSERT_EQ(out.spans_size(), 15);
  const auto& root = out.spans(1);
  EXPECT_EQ(root.trace_id(), std::string("\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2", 16));
  EXPECT_EQ(root.parent_span_id(), std::string("\0\0\0\0\0\0\0\xAB", 8));
  EXPECT_EQ(root.name(), "patchflow.generate");
  EXPECT_EQ(root.kind(), opentelemetry::proto::trace::v1::Span::SPAN_KIND_SERVER);
  EXPECT_EQ(root.start_time_unix_nano(), 1000'000'000'000U);
  EXPECT_EQ(root.end_time_unix_nano(), 1000'085'000'000U);
  EXPECT_EQ(root.status().code(), opentelemetry::proto::trace::v1::Status::STATUS_CODE_ERROR);
  const auto& steps = out.spans(7);
  EXPECT_EQ(steps.name(), "patchflow.steps");
  ASSERT_EQ(steps.events_size(), 2);
  EXPECT_EQ(steps.events(0).time_unix_nano(), 1000'042'000'000U);
  EXPECT_EQ(steps.parent_span_id(), out.spans(5).span_id());
}

std::shared_ptr<RequestTrace> TraceOf(const std::string& id) {
  return std::make_shared<RequestTrace>(SpecOf(id), TraceOrigin{}, true);
}

TEST(TraceRingTest, KeepsTheLastOnes) {
  TraceRing ring(3, 1 << 20);
  for (const char* id : {"a", "b", "c", "d"}) {
    ring.Add(TraceOf(id));
  }
  EXPECT_EQ(ring.size(), 3U);
  EXPECT_EQ(ring.Find({"studio", "a"}), nullptr);
  EXPECT_NE(ring.Find({"studio", "d"}), nullptr);
  EXPECT_EQ(ring.Find({"other", "d"}), nullptr) << "another owner's";
}

TEST(TraceRingTest, ANewerOneTakesAnIdOver) {
  TraceRing ring(3, 1 << 20);
  const auto old = TraceOf("a");
  const auto young = TraceOf("a");
  ring.Add(old);
  ring.Add(young);
  EXPECT_EQ(ring.size(), 1U);
  ring.Ended(*old);
  ring.Forget(*old);
  EXPECT_EQ(ring.Find({"studio", "a"}), young);
  ring.Forget(*young);
  EXPECT_EQ(ring.size(), 0U);
}

TEST(TraceRingTest, BoundsItsMemory) {
  TraceRing ring(1000, 100 << 10);
  for (int i = 0; i < 100; ++i) {
    const auto trace = TraceOf(std::to_string(i));
    ring.Add(trace);
    trace->BeginRun("g", 1);
    for (int image = 0; image < 8; ++image) {
      trace->AddReport(ReportAt(Clock::now()));
    }
    trace->End(absl::OkStatus());
    ring.Ended(*trace);
    EXPECT_LE(ring.bytes(), 100U << 10);
  }
  EXPECT_LT(ring.size(), 100U);
  EXPECT_GT(ring.size(), 1U);
  EXPECT_NE(ring.Find({"studio", "99"}), nullptr);
}

TEST(TraceRingTest, KeepsNoneIfToldSo) {
  TraceRing ring(0, 1 << 20);
  ring.Add(TraceOf("a"));
  EXPECT_EQ(ring.size(), 0U);
}

}  // namespace
}  // namespace patchflow

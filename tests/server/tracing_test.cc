// Traces of a whole front end, with fake workers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "server/trace_context.h"
#include "tests/server/running_server.h"

namespace patchflow {
namespace {

constexpr char kParent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

absl::StatusOr<v1::GetGenerationTraceResponse> TraceOf(RunningServer& server,
                                                       const std::string& id) {
  grpc::ClientContext context;
  RunningServer::Authorize(context, "");
  v1::GetGenerationTraceRequest request;
  request.set_request_id(id);
  v1::GetGenerationTraceResponse response;
  const grpc::Status status = server.stub().GetGenerationTrace(&context, request, &response);
  if (!status.ok()) {
    return FromGrpc(status);
  }
  return response;
}

std::map<std::string, int> CountNames(const v1::GetGenerationTraceResponse& trace) {
  std::map<std::string, int> names;
  for (const auto& span : trace.spans()) {
    ++names[span.name()];
  }
  return names;
}

// Its trace, once the client's last bytes are in it.
v1::GetGenerationTraceResponse WholeTraceOf(RunningServer& server, const std::string& id) {
  v1::GetGenerationTraceResponse trace;
  EXPECT_TRUE(Eventually([&] {
    auto got = TraceOf(server, id);
    trace = got.ok() ? *got : trace;
    return CountNames(trace).count("send") == 1;
  })) << id;
  return trace;
}

TEST(TracingTest, TellsWhatEveryRankDidForARequest) {
  RunningServer server({}, StepsOf(absl::Milliseconds(2)));
  ASSERT_TRUE(server.Ready());
  auto request = RunningServer::Request("a star", "r1");
  request.mutable_sampling()->set_steps(5);
  request.mutable_image()->set_count(2);
  ASSERT_TRUE(server.Generate(request).status.ok());
  const auto trace = WholeTraceOf(server, "r1");
  EXPECT_EQ(CountNames(trace), (std::map<std::string, int>{{"generate", 1},
                                                           {"admission", 1},
                                                           {"queue", 1},
                                                           {"run", 1},
                                                           {"rank", 4},
                                                           {"text", 4},
                                                           {"steps", 4},
                                                           {"decode", 4},
                                                           {"encode", 2},
                                                           {"send", 1}}));
  for (const auto& span : trace.spans()) {
    if (span.name() == "steps") {
      EXPECT_EQ(span.step_times_ns_size(), 5);
      EXPECT_GE(span.end_ns() - span.begin_ns(), 10'000'000);
    }
    EXPECT_EQ(span.attributes().count("clock_error_ns"), 0U) << "one host";
  }
}

TEST(TracingTest, GivesTheWorkerAndTheSpansTheCallersTrace) {
  RunningServer server;
  ASSERT_TRUE(server.Ready());
  grpc::ClientContext context;
  RunningServer::Authorize(context, "");
  context.AddMetadata("traceparent", kParent);
  v1::GenerateImagesUnaryRequest request;
  *request.mutable_generation() = RunningServer::Request("a star", "r2");
  v1::GenerateImagesUnaryResponse response;
  ASSERT_TRUE(server.stub().GenerateImagesUnary(&context, request, &response).ok());
  const auto trace = WholeTraceOf(server, "r2");
  EXPECT_EQ(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(trace.spans(0).parent_span_id(), "b7ad6b7169203331");
  const auto told = ParseTraceparent(server.worker().last_request().traceparent());
  ASSERT_TRUE(told.has_value());
  EXPECT_EQ(TraceIdOf(*told), trace.trace_id());
  for (const auto& span : trace.spans()) {
    if (span.name() == "run") {
      EXPECT_EQ(HexOf(told->span), span.span_id());
    }
  }
}

TEST(TracingTest, ShowsEachAttempt) {
  RunningServer server({}, StepsOf(absl::Milliseconds(1)));
  ASSERT_TRUE(server.Ready());
  ScratchFolder folder;
  std::jthread revival([&] {
    EXPECT_TRUE(Eventually([&] { return !server.worker().busy() && server.worker().steps() > 2; }));
    server.StartWorker();
  });
  const auto request =
      RunningServer::Request(absl::StrCat("fault:die@3 once:", folder.path("died")), "r3");
  ASSERT_TRUE(server.Generate(request).status.ok());
  const auto names = CountNames(WholeTraceOf(server, "r3"));
  EXPECT_EQ(names.at("queue"), 2);
  EXPECT_EQ(names.at("run"), 2);
  EXPECT_EQ(names.at("rank"), 2) << "of the attempt that told";
}

TEST(TracingTest, PlacesTheClockOfAnotherHost) {
  FakeWorkerOptions worker = StepsOf(absl::Milliseconds(2));
  worker.clock_ahead = -absl::Hours(5);
  RunningServer server({}, worker);
  ASSERT_TRUE(server.Ready());
  ASSERT_TRUE(server.Generate(RunningServer::Request("a star", "r4")).status.ok());
  int64_t run_ns = 0;
  const auto trace = WholeTraceOf(server, "r4");
  for (const auto& span : trace.spans()) {
    if (span.name() == "run") {
      run_ns = span.begin_ns();
    } else if (span.name() == "rank") {
      EXPECT_GE(span.begin_ns(), run_ns);
      EXPECT_LT(span.begin_ns() - run_ns, 1'000'000'000);
      EXPECT_EQ(span.attributes().count("clock_error_ns"), 1U);
    }
  }
}

TEST(TracingTest, LeavesOutWhoFetchesWhatHadEnded) {
  RunningServer server({}, StepsOf(absl::Milliseconds(2)));
  ASSERT_TRUE(server.Ready());
  auto request = RunningServer::Request("a star", "r6");
  request.mutable_scheduling()->set_on_disconnect(v1::DISCONNECT_POLICY_DETACH);
  {
    grpc::ClientContext context;
    const auto reader = server.stub().GenerateImages(&context, request);
    v1::GenerateImagesResponse accepted;
    ASSERT_TRUE(reader->Read(&accepted));
    context.TryCancel();
    reader->Finish();
  }
  ASSERT_TRUE(Eventually([&] {
    const auto trace = TraceOf(server, "r6");
    return trace.ok() && trace->spans(0).attributes().count("code") == 1;
  }));
  EXPECT_TRUE(server.Fetch("r6").status.ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(CountNames(*TraceOf(server, "r6")).count("send"), 0U) << "nobody waited";
}

TEST(TracingTest, HasNoTraceOfWhatIsUnknownOrRefused) {
  RunningServer server;
  ASSERT_TRUE(server.Ready());
  EXPECT_TRUE(absl::IsNotFound(TraceOf(server, "unknown").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(TraceOf(server, "").status()));
  auto bad = RunningServer::Request("a star", "bad");
  bad.mutable_sampling()->set_steps(0);
  EXPECT_FALSE(server.Generate(bad).status.ok());
  EXPECT_TRUE(absl::IsNotFound(TraceOf(server, "bad").status()));
}

TEST(TracingTest, KeepsNoneIfToldSo) {
  ServerConfig config;
  config.tracing.recent = 0;
  RunningServer server(config);
  ASSERT_TRUE(server.Ready());
  ASSERT_TRUE(server.Generate(RunningServer::Request("a star", "r5")).status.ok());
  EXPECT_TRUE(absl::IsNotFound(TraceOf(server, "r5").status()));
  EXPECT_EQ(server.worker().last_request().traceparent(), "");
}

}  // namespace
}  // namespace patchflow

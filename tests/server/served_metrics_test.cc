// What a whole front end counts, over gRPC and with a fake worker.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "tests/server/running_server.h"

namespace patchflow {
namespace {

constexpr char kTokens[] = R"(
tokens:
  - {name: studio, token: secret-of-studio}
)";

class ServedMetricsTest : public ::testing::Test {
 protected:
  static ServerConfig Config() {
    ServerConfig config;
    config.metrics = "127.0.0.1:0";
    return config;
  }
  // 0 where there is no such series.
  static double Sample(RunningServer& running, const std::string& name) {
    const std::string text = running.Scrape();
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? 0 : std::stod(text.substr(at + name.size() + 2));
  }
};

double SecondsSince(Clock::time_point when) {
  return std::chrono::duration<double>(Clock::now() - when).count();
}

// A cancelled gRPC call ends at once, whatever the worker does with its job.
TEST_F(ServedMetricsTest, ACancellationLastsUntilTheWorkerHasStopped) {
  RunningServer running(Config(), StepsOf(absl::Milliseconds(700)));
  ASSERT_TRUE(running.Ready());
  auto request = RunningServer::Request("a star", "runs");
  request.mutable_sampling()->set_steps(20);
  std::thread client([&] { (void)running.Generate(request); });
  ASSERT_TRUE(Eventually([&] { return running.worker().steps() > 0; }));
  v1::CancelGenerationRequest cancel;
  cancel.set_request_id("runs");
  v1::CancelGenerationResponse cancelled;
  grpc::ClientContext context;
  RunningServer::Authorize(context, "");
  const auto began = Clock::now();
  ASSERT_TRUE(running.stub().CancelGeneration(&context, cancel, &cancelled).ok());
  client.join();
  EXPECT_TRUE(running.worker().busy()) << "its step goes on";
  const std::string name = R"(patchflow_cancel_latency_seconds_%{model="shapes",phase="running"})";
  const auto of = [&](const char* part) {
    std::string full = name;
    return Sample(running, full.replace(full.find('%'), 1, part));
  };
  EXPECT_EQ(of("count"), 0);
  ASSERT_TRUE(Eventually([&] { return !running.worker().busy(); }));
  const double free_s = SecondsSince(began);
  ASSERT_TRUE(Eventually([&] { return of("count") == 1; }));
  EXPECT_GT(of("sum"), 0.3);
  EXPECT_NEAR(of("sum"), free_s, 0.25);
}

TEST_F(ServedMetricsTest, CountsCallsThatAreAnsweredAtOnce) {
  const ScratchFolder folder;
  std::ofstream(folder.path("tokens.yaml")) << kTokens;
  ServerConfig config = Config();
  config.security.tokens = folder.path("tokens.yaml");
  RunningServer running(config, StepsOf(absl::Milliseconds(1)));
  const auto started = [&](const char* method) {
    return Sample(running,
                  absl::StrCat("patchflow_requests_started_total{method=\"", method, "\"}"));
  };
  const auto ended = [&](const char* method, const char* code) {
    return Sample(running, absl::StrCat("patchflow_requests_total{code=\"", code, "\",method=\"",
                                        method, "\",model=\"none\"}"));
  };
  const auto call = [&](const char* method, const std::string& token) {
    grpc::ClientContext context;
    RunningServer::Authorize(context, token);
    auto& stub = running.stub();
    const std::string name = method;
    if (name == "ListModels") {
      v1::ListModelsResponse response;
      return stub.ListModels(&context, {}, &response);
    }
    if (name == "GetModel") {
      v1::GetModelRequest request;
      request.set_name("shapes");
      v1::GetModelResponse response;
      return stub.GetModel(&context, request, &response);
    }
    if (name == "GetGeneration") {
      v1::GetGenerationRequest request;
      request.set_request_id("nobody");
      v1::GetGenerationResponse response;
      return stub.GetGeneration(&context, request, &response);
    }
    if (name == "CancelGeneration") {
      v1::CancelGenerationRequest request;
      request.set_request_id("nobody");
      v1::CancelGenerationResponse response;
      return stub.CancelGeneration(&context, request, &response);
    }
    v1::GetGenerationTraceRequest request;
    request.set_request_id("nobody");
    v1::GetGenerationTraceResponse response;
    return stub.GetGenerationTrace(&context, request, &response);
  };
  const std::string refused =
      R"(patchflow_requests_rejected_total{model="none",reason="unauthenticated"})";
  double guesses = 0;
  for (const auto& [method, code] : {std::pair{"ListModels", "OK"},
                                     {"GetModel", "OK"},
                                     {"GetGeneration", "NOT_FOUND"},
                                     {"CancelGeneration", "OK"},
                                     {"GetGenerationTrace", "NOT_FOUND"}}) {
    (void)call(method, "secret-of-studio");
    EXPECT_EQ(call(method, "a guess").error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
    EXPECT_EQ(started(method), 2) << method;
    EXPECT_EQ(ended(method, code), 1) << method;
    EXPECT_EQ(ended(method, "UNAUTHENTICATED"), 1) << method;
    EXPECT_EQ(Sample(running, refused), ++guesses) << method;
  }
}

}  // namespace
}  // namespace patchflow

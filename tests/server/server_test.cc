#include "server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/server/running_server.h"

namespace patchflow {
namespace {

using grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;

absl::StatusOr<int> Health(const std::string& address, const std::string& service) {
  auto stub = grpc::health::v1::Health::NewStub(
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  RunningServer::Authorize(context, "");
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  if (!status.ok()) {
    return FromGrpc(status);
  }
  return response.status();
}

TEST(ServerTest, StreamsAcceptedProgressImagesCompleted) {
  RunningServer running;
  ASSERT_TRUE(running.Ready());
  auto request = RunningServer::Request();
  request.mutable_image()->set_count(2);
  const Received received = running.Generate(request);
  ASSERT_TRUE(received.status.ok()) << received.status;
  ASSERT_TRUE(received.accepted.has_value());
  EXPECT_EQ(received.accepted->plan_digest(), "plan-1");
  EXPECT_EQ(received.images.size(), 2U);
  EXPECT_NE(received.images[0], received.images[1]);
  ASSERT_TRUE(received.completed.has_value());
  EXPECT_EQ(received.completed->attempts(), 1);
}

TEST(ServerTest, MakesTheSameBytesAfterAWorkerDied) {
  ScratchFolder folder;
  RunningServer running({}, StepsOf(absl::Milliseconds(2)));
  ASSERT_TRUE(running.Ready());
  const auto undisturbed = running.Generate(RunningServer::Request("a star"));
  std::thread revive([&] {
    ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(folder.path("died")); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    running.StartWorker();
  });
  const std::string prompt = absl::StrCat("a star fault:die@2 once:", folder.path("died"));
  const auto disturbed = running.Generate(RunningServer::Request(prompt));
  revive.join();
  ASSERT_TRUE(disturbed.status.ok()) << disturbed.status;
  EXPECT_EQ(disturbed.completed->attempts(), 2);
  int attempt = 1;
  int step = 0;
  for (const auto& progress : disturbed.progress) {
    EXPECT_GE(progress.attempt(), attempt);
    if (progress.attempt() == attempt) {
      EXPECT_GE(progress.step(), step) << "a step falls only when the attempt rises";
    }
    attempt = progress.attempt();
    step = progress.step();
  }
  EXPECT_EQ(attempt, 2);
  EXPECT_EQ(running.Generate(RunningServer::Request(prompt)).images, disturbed.images);
  EXPECT_EQ(undisturbed.images.size(), 1U);
}

TEST(ServerTest, ReplaysAGenerationOfTheSameId) {
  RunningServer running;
  ASSERT_TRUE(running.Ready());
  const auto request = RunningServer::Request("a star", "same");
  const auto first = running.Generate(request);
  const int executions = running.worker().executions();
  EXPECT_EQ(running.Generate(request).images, first.images);
  EXPECT_EQ(running.Fetch("same").images, first.images);
  EXPECT_EQ(running.worker().executions(), executions) << "nothing was made twice";
  const auto other = running.Generate(RunningServer::Request("a circle", "same"));
  EXPECT_EQ(ReasonOf(other.status), "REQUEST_ID_CONFLICT");
  EXPECT_EQ(ReasonOf(running.Fetch("unknown").status), "GENERATION_NOT_FOUND");
}

TEST(ServerTest, CancelsWhatWaitsAndWhatRuns) {
  RunningServer running({}, StepsOf(absl::Milliseconds(20)));
  ASSERT_TRUE(running.Ready());
  auto slow = RunningServer::Request("a star", "runs");
  slow.mutable_sampling()->set_steps(200);
  Received runs;
  Received waits;
  std::thread first([&] { runs = running.Generate(slow); });
  ASSERT_TRUE(Eventually([&] { return running.worker().busy(); }));
  slow.set_request_id("waits");
  std::thread second([&] { waits = running.Generate(slow); });
  const auto cancel = [&](const char* id) {
    v1::CancelGenerationRequest request;
    request.set_request_id(id);
    v1::CancelGenerationResponse response;
    EXPECT_TRUE(Eventually([&] { return running.Knows(id); }));
    grpc::ClientContext context;
    RunningServer::Authorize(context, "");
    EXPECT_TRUE(running.stub().CancelGeneration(&context, request, &response).ok());
    EXPECT_EQ(response.state(), v1::STATE_CANCELLED);
  };
  cancel("waits");
  second.join();
  EXPECT_TRUE(running.worker().busy()) << "the one that runs goes on";
  cancel("runs");
  first.join();
  EXPECT_EQ(ReasonOf(waits.status), "CANCELLED_BY_REQUEST");
  EXPECT_EQ(ReasonOf(runs.status), "CANCELLED_BY_REQUEST");
  EXPECT_TRUE(Eventually([&] { return !running.worker().busy(); }));
}

TEST(ServerTest, EndsACallBeforeItsDeadlineWithTheReason) {
  RunningServer running({}, StepsOf(absl::Milliseconds(20)));
  ASSERT_TRUE(running.Ready());
  auto request = RunningServer::Request();
  request.mutable_sampling()->set_steps(200);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(400));
  auto reader = running.stub().GenerateImages(&context, request);
  v1::GenerateImagesResponse message;
  while (reader->Read(&message)) {
  }
  const absl::Status status = FromGrpc(reader->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), "DEADLINE_RUNNING");
}

TEST(ServerTest, EachCallOfAnIdHasATimeoutOfItsOwn) {
  RunningServer running({}, StepsOf(absl::Milliseconds(20)));
  ASSERT_TRUE(running.Ready());
  auto request = RunningServer::Request("a star", "same");
  request.mutable_sampling()->set_steps(50);
  auto hasty = request;
  hasty.mutable_scheduling()->mutable_timeout()->set_nanos(300000000);
  Received first;
  std::thread client([&] { first = running.Generate(hasty); });
  ASSERT_TRUE(Eventually([&] { return running.worker().busy(); }));
  const Received joined = running.Generate(request);
  client.join();
  EXPECT_EQ(ReasonOf(first.status), "DEADLINE_RUNNING");
  EXPECT_TRUE(joined.status.ok()) << joined.status;
  hasty.set_request_id("alone");
  EXPECT_EQ(ReasonOf(running.Generate(hasty).status), "DEADLINE_RUNNING");
  EXPECT_TRUE(Eventually([&] { return !running.worker().busy(); })) << "nobody else waits for it";
}

TEST(ServerTest, RefusesWithRetryInfoWhenFull) {
  ServerConfig config;
  config.limits.max_queue = 1;
  RunningServer running(config, StepsOf(absl::Milliseconds(20)));
  ASSERT_TRUE(running.Ready());
  const auto slow = [](const std::string& id) {
    auto request = RunningServer::Request("a star", id);
    request.mutable_sampling()->set_steps(50);
    return request;
  };
  std::thread first([&] { running.Generate(slow("runs")); });
  ASSERT_TRUE(Eventually([&] { return running.worker().busy(); }));
  std::thread second([&] { running.Generate(slow("waits")); });
  ASSERT_TRUE(Eventually([&] { return running.Knows("waits"); }));
  const absl::Status refused = running.Generate(slow("")).status;
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "QUEUE_FULL");
  EXPECT_TRUE(RetryDelayOf(refused).has_value());
  first.join();
  second.join();
}

TEST(ServerTest, LimitsTheRateOfAClient) {
  ServerConfig config;
  config.limits.requests_per_second = 0.001;
  config.limits.burst = 2;
  RunningServer running(config);
  ASSERT_TRUE(running.Ready());
  EXPECT_TRUE(running.Generate(RunningServer::Request()).status.ok());
  EXPECT_TRUE(running.Generate(RunningServer::Request()).status.ok());
  const absl::Status refused = running.Generate(RunningServer::Request()).status;
  EXPECT_EQ(ReasonOf(refused), "RATE_LIMITED");
  EXPECT_TRUE(RetryDelayOf(refused).has_value());
}

TEST(ServerTest, RefusesWhileItDrainsAndFinishesWhatRuns) {
  RunningServer running({}, StepsOf(absl::Milliseconds(20)));
  ASSERT_TRUE(running.Ready());
  auto slow = RunningServer::Request();
  slow.mutable_sampling()->set_steps(20);
  Received received;
  std::thread client([&] { received = running.Generate(slow); });
  ASSERT_TRUE(Eventually([&] { return running.worker().busy(); }));
  std::thread drain([&] { running.server().Drain(); });
  EXPECT_TRUE(Eventually(
      [&] { return ReasonOf(running.Generate(RunningServer::Request()).status) == "DRAINING"; }));
  client.join();
  drain.join();
  EXPECT_TRUE(received.status.ok()) << received.status;
}

TEST(ServerTest, ServesHealthAloneOnAListenerOfItsOwn) {
  ServerConfig config;
  config.health = "127.0.0.1:0";
  RunningServer running(config);
  ASSERT_TRUE(running.Ready());
  const std::string& address = running.server().health_address();
  EXPECT_EQ(*Health(address, "readiness"), HealthCheckResponse::SERVING);
  EXPECT_EQ(*Health(address, "liveness"), HealthCheckResponse::SERVING);
  auto stub = v1::ImageGenerationService::NewStub(
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  RunningServer::Authorize(context, "");
  v1::ListModelsResponse list;
  EXPECT_EQ(stub->ListModels(&context, {}, &list).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST(ServerTest, WritesEveryCallAndGenerationIntoTheAuditLog) {
  ScratchFolder folder;
  ServerConfig config;
  config.audit.file = folder.path("audit.jsonl");
  {
    RunningServer running(config);
    ASSERT_TRUE(running.Ready());
    running.Generate(RunningServer::Request("a secret star", "one"));
    running.Generate(RunningServer::Request("a secret star", "a/b"));
    running.Fetch("one");
  }
  std::ifstream file(config.audit.file);
  std::map<std::string, std::string> codes;
  int generations = 0;
  for (std::string line; std::getline(file, line);) {
    EXPECT_EQ(line.find("secret"), std::string::npos) << line;
    const auto record = nlohmann::json::parse(line);
    if (record["event"] == "generation") {
      ++generations;
      EXPECT_EQ(record["request_id"], "one");
      EXPECT_EQ(record["images"], 1);
    } else {
      codes[absl::StrCat(record["method"].get<std::string>(), " ",
                         record["request_id"].get<std::string>())] = record["code"];
    }
  }
  EXPECT_EQ(generations, 1);
  EXPECT_EQ(codes["GenerateImages one"], "OK");
  EXPECT_EQ(codes["GenerateImages a/b"], "INVALID_ARGUMENT");
  EXPECT_EQ(codes["FetchGeneration one"], "OK");
}

TEST(ServerTest, SaysWhichAddressIsInUse) {
  RunningServer running;
  ServerConfig config;
  config.groups.push_back(
      {.name = "g", .model = "", .model_name = "shapes", .layout = "", .workers = {"127.0.0.1:1"}});
  config.listen = running.server().listen_address();
  EXPECT_THAT(std::string(Server::Start(config).status().message()),
              HasSubstr("server.listen: cannot listen on " + config.listen));
  config.listen = "127.0.0.1:0";
  config.health = running.server().listen_address();
  EXPECT_THAT(std::string(Server::Start(config).status().message()),
              HasSubstr("server.health: cannot listen on " + config.health));
}

}  // namespace
}  // namespace patchflow

// A whole front end over a worker that takes several calls at once.
#include <gmock/gmock.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/running_server.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

FakeWorkerOptions FourAtOnce() {
  FakeWorkerOptions options = StepsOf(absl::Milliseconds(2));
  options.batch_size = 4;
  return options;
}

// What requests bring that all wait when the group is free for them.
class BatchingTest : public ::testing::Test {
 protected:
  BatchingTest() {
    config_.metrics = "127.0.0.1:0";
    running_ = std::make_unique<RunningServer>(config_, FourAtOnce());
    EXPECT_TRUE(running_->Ready());
  }

  v1::GenerateImagesRequest Blocker() {
    v1::GenerateImagesRequest request = RunningServer::Request("a blocker");
    request.mutable_sampling()->set_steps(200);  // Time for a busy machine to send the others.
    return request;
  }
  // Sent while a blocker runs, after what `first` sends. What each brought, in order.
  std::vector<Received> Together(
      const std::vector<v1::GenerateImagesRequest>& requests,
      const std::function<void()>& first = [] {}) {
    std::vector<Received> received(requests.size());
    std::vector<std::thread> threads;
    const int steps = running_->worker().steps();
    threads.emplace_back([&] { running_->Generate(Blocker()); });
    EXPECT_TRUE(Eventually([&] { return running_->worker().steps() > steps; }));
    first();
    for (size_t i = 0; i < requests.size(); ++i) {
      threads.emplace_back([&, i] { received[i] = running_->Generate(requests[i]); });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return received;
  }
  // What it brings alone, from a server that makes one image at a time.
  static std::vector<std::string> Alone(const v1::GenerateImagesRequest& request) {
    RunningServer other({}, StepsOf(absl::Milliseconds(1)));
    EXPECT_TRUE(other.Ready());
    return other.Generate(request).images;
  }

  ServerConfig config_;
  std::unique_ptr<RunningServer> running_;
};

TEST_F(BatchingTest, RequestsThatWaitTogetherShareAPass) {
  std::vector<v1::GenerateImagesRequest> requests;
  for (const char* prompt : {"a star", "a cat", "a dog", "a house"}) {
    requests.push_back(RunningServer::Request(prompt));
  }
  const std::vector<Received> received = Together(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(received[i].status.ok()) << received[i].status;
    EXPECT_EQ(received[i].completed->attempts(), 1);
    EXPECT_EQ(received[i].images, Alone(requests[i]));
  }
  const std::string metrics = running_->Scrape();
  EXPECT_THAT(metrics, HasSubstr("patchflow_batch_size_count{model=\"shapes\"} 2"));
  EXPECT_THAT(metrics, HasSubstr("patchflow_batch_size_sum{model=\"shapes\"} 5"));
}

TEST_F(BatchingTest, AllAreMadeAfterTheirWorkerDiedInThePass) {
  ScratchFolder folder;
  std::vector<v1::GenerateImagesRequest> requests;
  for (const char* prompt : {"a star", "a cat", "a dog"}) {
    requests.push_back(RunningServer::Request(prompt));
  }
  requests[1].mutable_prompt()->set_text(
      absl::StrCat("a cat fault:die@2 once:", folder.path("died")));
  std::thread revive([&] {
    ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(folder.path("died")); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    running_->StartWorker();
  });
  const std::vector<Received> received = Together(requests);
  revive.join();
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(received[i].status.ok()) << received[i].status;
    EXPECT_EQ(received[i].completed->attempts(), 2) << i;
    EXPECT_EQ(received[i].images, Alone(requests[i])) << i;
    int attempt = 1;
    int step = 0;
    for (const auto& progress : received[i].progress) {
      EXPECT_TRUE(progress.attempt() > attempt || progress.step() >= step)
          << "a step falls only when the attempt rises";
      attempt = progress.attempt();
      step = progress.step();
    }
  }
}

TEST_F(BatchingTest, AnErrorOfOneIsNotTheOthers) {
  std::vector<v1::GenerateImagesRequest> requests;
  for (const char* prompt : {"a star", "a cat fault:refuse", "a dog"}) {
    requests.push_back(RunningServer::Request(prompt));
  }
  const std::vector<Received> received = Together(requests);
  EXPECT_TRUE(received[0].status.ok()) << received[0].status;
  EXPECT_EQ(ReasonOf(received[1].status), "INVALID_REQUEST");
  EXPECT_TRUE(received[2].status.ok()) << received[2].status;
}

TEST_F(BatchingTest, WhoAsksAgainGetsTheBytesOfTheBatch) {
  auto request = RunningServer::Request("a star", "mine");
  request.mutable_scheduling()->set_on_disconnect(v1::DISCONNECT_POLICY_DETACH);
  const std::vector<Received> received =
      Together({request, RunningServer::Request("a cat", "other")});
  ASSERT_TRUE(received[0].status.ok()) << received[0].status;
  const int executions = running_->worker().executions();
  EXPECT_EQ(running_->Generate(request).images, received[0].images);
  EXPECT_EQ(running_->Fetch("mine").images, received[0].images);
  EXPECT_EQ(running_->worker().executions(), executions);
}

// Of a connection that takes little without being read.
std::unique_ptr<v1::ImageGenerationService::Stub> DeafStub(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 16);
  return v1::ImageGenerationService::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

TEST_F(BatchingTest, WhoDoesNotReadCostsNoNeighbour) {
  v1::GenerateImagesRequest large = RunningServer::Request();
  large.mutable_image()->set_width(1024);
  large.mutable_image()->set_height(1024);
  large.mutable_output()->set_format(v1::IMAGE_FORMAT_RAW_RGB8);
  const auto deaf = DeafStub(running_->server().listen_address());
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::GenerateImagesResponse>> unread;
  const auto began = Clock::now();
  const auto beside =
      Together({large, large, large}, [&] { unread = deaf->GenerateImages(&context, large); });
  const auto after = Together({large, large, large, large});
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(20)) << "it is dropped after 30 s";
  for (const auto& received : {beside, after}) {
    for (const Received& one : received) {
      EXPECT_TRUE(one.status.ok()) << one.status;
    }
  }
  const std::string metrics = running_->Scrape();
  EXPECT_THAT(metrics, HasSubstr("patchflow_streams_open 1\n"));
  EXPECT_THAT(metrics, HasSubstr("patchflow_batch_size_count{model=\"shapes\"} 4"));
  EXPECT_THAT(metrics, HasSubstr("patchflow_batch_size_sum{model=\"shapes\"} 10"));
  size_t bytes = 0;
  for (v1::GenerateImagesResponse message; unread->Read(&message);) {
    bytes += message.image_chunk().data().size();
  }
  EXPECT_TRUE(unread->Finish().ok());
  EXPECT_EQ(bytes, 1024U * 1024U * 3U);
}

}  // namespace
}  // namespace patchflow

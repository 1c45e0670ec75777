// A whole front end in this process, with fake workers, for tests that speak gRPC to it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "patchflow/v1/image_generation.grpc.pb.h"
#include "server/errors.h"
#include "server/server.h"
#include "server/status.h"
#include "tests/server/fake_worker.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {

inline FakeWorkerOptions StepsOf(absl::Duration time) {
  FakeWorkerOptions options;
  options.step_time = time;
  return options;
}

// What a stream brought.
struct Received {
  std::optional<v1::Accepted> accepted;
  std::vector<v1::Progress> progress;
  std::vector<std::string> images;
  std::optional<v1::Completed> completed;
  absl::Status status;
};

class RunningServer {
 public:
  explicit RunningServer(ServerConfig config = {}, FakeWorkerOptions worker = {}) {
    worker.address = absl::StrCat("unix:", folder_.path("worker"));
    worker_options_ = worker;
    StartWorker();
    config.listen = "127.0.0.1:0";
    GroupConfig group;
    group.name = "g";
    group.model_name = "shapes";
    group.batch_size = worker.batch_size;
    group.workers = {worker.address};
    config.groups = {group};
    config.supervision.heartbeat_interval = absl::Milliseconds(50);
    config.supervision.heartbeat_timeout = absl::Milliseconds(500);
    auto server = Server::Start(config);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    if (!config.security.tls.on()) {
      Connect(grpc::InsecureChannelCredentials());
    }
  }

  // In place of one that died.
  void StartWorker() {
    worker_.reset();
    worker_ = FakeWorker::Start(worker_options_);
  }
  void Connect(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    channel_ = grpc::CreateChannel(server_->listen_address(), credentials);
    stub_ = v1::ImageGenerationService::NewStub(channel_);
  }
  bool Ready(const std::string& token = "") {
    return Eventually([&] {
      grpc::ClientContext context;
      Authorize(context, token);
      v1::ListModelsResponse list;
      return stub_->ListModels(&context, {}, &list).ok() && list.models_size() == 1 &&
             list.models(0).ready();
    });
  }
  static void Authorize(grpc::ClientContext& context, const std::string& token) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    if (!token.empty()) {
      context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
    }
  }

  static v1::GenerateImagesRequest Request(const std::string& prompt = "a star",
                                           const std::string& id = "") {
    v1::GenerateImagesRequest request;
    request.mutable_prompt()->set_text(prompt);
    request.mutable_sampling()->set_seed(7);
    request.set_request_id(id);
    return request;
  }

  Received Generate(const v1::GenerateImagesRequest& request, const std::string& token = "") {
    grpc::ClientContext context;
    Authorize(context, token);
    return Drain(*stub_->GenerateImages(&context, request));
  }
  Received Fetch(const std::string& id, const std::string& token = "") {
    grpc::ClientContext context;
    Authorize(context, token);
    v1::FetchGenerationRequest request;
    request.set_request_id(id);
    auto reader = stub_->FetchGeneration(&context, request);
    Received received;
    v1::FetchGenerationResponse response;
    while (reader->Read(&response)) {
      Take(response.message(), received);
    }
    received.status = FromGrpc(reader->Finish());
    return received;
  }

  bool Knows(const std::string& id) {
    grpc::ClientContext context;
    Authorize(context, "");
    v1::GetGenerationRequest request;
    request.set_request_id(id);
    v1::GetGenerationResponse response;
    return stub_->GetGeneration(&context, request, &response).ok();
  }
  // The text of /metrics; the configuration must have a metrics listener.
  std::string Scrape() {
    httplib::Client client(absl::StrCat("http://", server_->metrics_address()));
    auto response = client.Get("/metrics");
    return response ? response->body : "";
  }

  Server& server() { return *server_; }
  FakeWorker& worker() { return *worker_; }
  v1::ImageGenerationService::Stub& stub() { return *stub_; }
  const std::shared_ptr<grpc::Channel>& channel() { return channel_; }

 private:
  static void Take(const v1::GenerateImagesResponse& message, Received& received) {
    if (message.has_accepted()) {
      EXPECT_FALSE(received.accepted.has_value()) << "Accepted is sent once";
      received.accepted = message.accepted();
    } else if (message.has_progress()) {
      received.progress.push_back(message.progress());
    } else if (message.has_image_header()) {
      received.images.emplace_back();
    } else if (message.has_image_chunk()) {
      received.images.back() += message.image_chunk().data();
    } else if (message.has_completed()) {
      received.completed = message.completed();
    }
  }
  static Received Drain(grpc::ClientReader<v1::GenerateImagesResponse>& reader) {
    Received received;
    v1::GenerateImagesResponse message;
    while (reader.Read(&message)) {
      Take(message, received);
    }
    received.status = FromGrpc(reader.Finish());
    return received;
  }

  ScratchFolder folder_;
  FakeWorkerOptions worker_options_;
  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ImageGenerationService::Stub> stub_;
};

}  // namespace patchflow

// A stand-in for the server: answers with scripted messages, over real connections.
#pragma once

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "patchflow/v1/image_generation.grpc.pb.h"

namespace patchflow {

inline std::string HashOf(const std::string& bytes) {
  std::string hash(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(hash.data()));
  return hash;
}

// The messages of one generation, to be sent as they are or spoilt first.
class Script {
 public:
  explicit Script(std::string request_id) : request_id_(std::move(request_id)) {}

  v1::GenerateImagesResponse& Accepted(int count, uint64_t seed) {
    v1::Accepted& accepted = *Add().mutable_accepted();
    accepted.mutable_effective()->set_count(count);
    accepted.mutable_effective()->set_seed(seed);
    accepted.mutable_effective()->set_model("fake");
    accepted.mutable_effective()->set_width(64);
    accepted.mutable_effective()->set_height(32);
    accepted.mutable_cost()->set_steps(20 * count);
    accepted.mutable_cost()->set_pixels(64 * 32 * count);
    return messages.back();
  }

  v1::GenerateImagesResponse& Progress(int step, int total_steps) {
    v1::Progress& progress = *Add().mutable_progress();
    progress.set_state(v1::STATE_RUNNING);
    progress.set_step(step);
    progress.set_total_steps(total_steps);
    progress.set_attempt(1);
    return messages.back();
  }

  // A header, and the bytes in chunks.
  void Image(int index, uint64_t seed, const std::string& bytes, size_t chunk_bytes) {
    v1::ImageHeader& header = *Add().mutable_image_header();
    header.set_image_index(index);
    header.set_format(v1::IMAGE_FORMAT_PNG);
    header.set_width(64);
    header.set_height(32);
    header.set_seed(seed);
    header.set_total_bytes(bytes.size());
    header.set_sha256(HashOf(bytes));
    for (size_t offset = 0; offset < bytes.size(); offset += chunk_bytes) {
      v1::ImageChunk& chunk = *Add().mutable_image_chunk();
      chunk.set_image_index(index);
      chunk.set_offset(offset);
      chunk.set_data(bytes.substr(offset, chunk_bytes));
    }
  }

  v1::GenerateImagesResponse& Completed() {
    v1::Completed& completed = *Add().mutable_completed();
    completed.set_attempts(1);
    completed.set_server_version("fake");
    v1::StageTiming& timing = *completed.add_timings();
    timing.set_stage("denoise");
    timing.mutable_duration()->set_nanos(250'000'000);
    return messages.back();
  }

  std::vector<v1::GenerateImagesResponse> messages;

 private:
  v1::GenerateImagesResponse& Add() {
    v1::GenerateImagesResponse message;
    message.set_request_id(request_id_);
    message.set_sequence(messages.size() + 1);
    messages.push_back(message);
    return messages.back();
  }

  std::string request_id_;
};

// What the image of a seed holds.
inline std::string ImageBytes(uint64_t seed, size_t bytes = 5000) {
  std::string text;
  while (text.size() < bytes) absl::StrAppend(&text, seed, ".", text.size(), ";");
  return text.substr(0, bytes);
}

// A whole generation of `request`, nothing wrong with it.
inline Script WholeGeneration(const v1::GenerateImagesRequest& request) {
  Script script(request.request_id());
  const int count = request.image().has_count() ? request.image().count() : 1;
  const uint64_t seed = request.sampling().seed();
  script.Accepted(count, seed);
  if (!request.validate_only()) {
    script.Progress(1, 2);
    script.Progress(2, 2);
    for (int i = 0; i < count; ++i) {
      const uint64_t image_seed = seed + static_cast<uint64_t>(i);
      script.Image(i, image_seed, ImageBytes(image_seed), 2048);
    }
  }
  script.Completed();
  return script;
}

// A status with details, as the server sends them. `retry_s` below 0: without RetryInfo.
inline grpc::Status ErrorStatus(
    grpc::StatusCode code, const std::string& reason, const std::string& message,
    double retry_s = -1, const std::vector<std::pair<std::string, std::string>>& violations = {}) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("patchflow");
  (*info.mutable_metadata())["limit"] = "16";
  status.add_details()->PackFrom(info);
  if (retry_s >= 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(static_cast<int64_t>(retry_s));
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>(1e9 * (retry_s - static_cast<double>(static_cast<int64_t>(retry_s)))));
    status.add_details()->PackFrom(retry);
  }
  if (!violations.empty()) {
    google::rpc::BadRequest bad;
    for (const auto& [field, description] : violations) {
      auto& violation = *bad.add_field_violations();
      violation.set_field(field);
      violation.set_description(description);
    }
    status.add_details()->PackFrom(bad);
  }
  return {code, message, status.SerializeAsString()};
}

// Set the functions before the first call.
class FakeService : public v1::ImageGenerationService::Service {
 public:
  using Write = std::function<bool(const v1::GenerateImagesResponse&)>;
  using Generate = std::function<grpc::Status(grpc::ServerContext&,
                                              const v1::GenerateImagesRequest&, const Write&)>;

  Generate on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                            const Write& write) {
    for (const auto& message : WholeGeneration(request).messages) write(message);
    return grpc::Status::OK;
  };
  std::function<grpc::Status(const std::string& request_id, v1::GetGenerationResponse&)> on_get =
      [](const std::string&, v1::GetGenerationResponse&) { return grpc::Status::OK; };
  std::function<grpc::Status(const std::string& request_id, v1::CancelGenerationResponse&)>
      on_cancel =
          [](const std::string&, v1::CancelGenerationResponse&) { return grpc::Status::OK; };
  std::function<grpc::Status(const std::string& request_id, v1::GetGenerationTraceResponse&)>
      on_trace =
          [](const std::string&, v1::GetGenerationTraceResponse&) { return grpc::Status::OK; };
  std::function<grpc::Status(grpc::ServerContext&, v1::ListModelsResponse&)> on_list =
      [](grpc::ServerContext&, v1::ListModelsResponse&) { return grpc::Status::OK; };

  // From now on every GenerateImages ends so.
  void FailWith(const grpc::Status& status) {
    on_generate = [status](grpc::ServerContext&, const v1::GenerateImagesRequest&, const Write&) {
      return status;
    };
  }

  // Those of GenerateImages, in order.
  std::vector<v1::GenerateImagesRequest> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

  grpc::Status GenerateImages(grpc::ServerContext* context,
                              const v1::GenerateImagesRequest* request,
                              grpc::ServerWriter<v1::GenerateImagesResponse>* writer) override {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(*request);
    }
    return on_generate(*context, *request,
                       [&](const v1::GenerateImagesResponse& m) { return writer->Write(m); });
  }

  // As GenerateImages of a request that has only an id and seed 7.
  grpc::Status FetchGeneration(grpc::ServerContext* context,
                               const v1::FetchGenerationRequest* request,
                               grpc::ServerWriter<v1::FetchGenerationResponse>* writer) override {
    v1::GenerateImagesRequest generation;
    generation.set_request_id(request->request_id());
    generation.mutable_sampling()->set_seed(7);
    return on_generate(*context, generation, [&](const v1::GenerateImagesResponse& m) {
      v1::FetchGenerationResponse response;
      *response.mutable_message() = m;
      return writer->Write(response);
    });
  }

  grpc::Status GetGeneration(grpc::ServerContext*, const v1::GetGenerationRequest* request,
                             v1::GetGenerationResponse* response) override {
    return on_get(request->request_id(), *response);
  }
  grpc::Status CancelGeneration(grpc::ServerContext*, const v1::CancelGenerationRequest* request,
                                v1::CancelGenerationResponse* response) override {
    return on_cancel(request->request_id(), *response);
  }
  grpc::Status GetGenerationTrace(grpc::ServerContext*,
                                  const v1::GetGenerationTraceRequest* request,
                                  v1::GetGenerationTraceResponse* response) override {
    return on_trace(request->request_id(), *response);
  }
  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    return on_list(*context, *response);
  }

 private:
  mutable std::mutex mutex_;
  std::vector<v1::GenerateImagesRequest> requests_;
};

// Serves a FakeService, which outlives it, on a free port of this machine.
class FakeServer {
 public:
  explicit FakeServer(FakeService& service,
                      const std::shared_ptr<grpc::ServerCredentials>& credentials =
                          grpc::InsecureServerCredentials()) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port);
    builder.RegisterService(&service);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) throw std::runtime_error("the fake server can't start");
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }

  const std::string& address() const { return address_; }

 private:
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace patchflow

// A server stream: writes an outbox to a client at the client's speed.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>

#include "patchflow/v1/image_generation.pb.h"
#include "server/generation_call.h"

namespace patchflow {

// How a message goes on the wire: as it is, or within a FetchGenerationResponse.
using EncodeMessage = std::function<grpc::ByteBuffer(v1::GenerateImagesResponse&&)>;

class Stream : public GenerationCall {
 public:
  using GenerationCall::GenerationCall;
  // Attach(), with the stream's options.
  virtual void Begin(std::shared_ptr<Generation> generation, const v1::StreamOptions& options,
                     std::optional<Clock::time_point> deadline) = 0;
  // Sends these messages and ends with OK.
  virtual void SendOnly(std::vector<v1::GenerateImagesResponse> messages) = 0;
  virtual grpc::ServerWriteReactor<grpc::ByteBuffer>* reactor() = 0;
};

// A client that takes nothing for the slow-client timeout is dropped: CANCELLED.
std::shared_ptr<Stream> MakeStream(const CallServices& services, const char* method,
                                   grpc::CallbackServerContext* context, EncodeMessage encode);

}  // namespace patchflow

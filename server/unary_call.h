// A unary call that waits for a generation and answers with all of its images.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>

#include "patchflow/v1/image_generation.pb.h"
#include "server/generation_call.h"

namespace patchflow {

class Unary : public GenerationCall {
 public:
  using GenerationCall::GenerationCall;
  // Answers with this and OK.
  virtual void Answer(const v1::GenerateImagesUnaryResponse& response) = 0;
  virtual grpc::ServerUnaryReactor* reactor() = 0;
};

// `response` is the caller's; it is written before the call ends.
std::shared_ptr<Unary> MakeUnary(const CallServices& services, const char* method,
                                 const grpc::CallbackServerContext& context,
                                 grpc::ByteBuffer* response);

}  // namespace patchflow

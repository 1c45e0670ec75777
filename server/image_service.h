// patchflow.v1.ImageGenerationService over gRPC.
#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <optional>

#include "patchflow/v1/image_generation.grpc.pb.h"
#include "server/admission.h"
#include "server/generation_call.h"
#include "server/guard.h"
#include "server/registry.h"
#include "server/waiting_room.h"

namespace patchflow {

template <typename Base>
using RawImageService = v1::ImageGenerationService::WithRawCallbackMethod_GenerateImages<
    v1::ImageGenerationService::WithRawCallbackMethod_GenerateImagesUnary<
        v1::ImageGenerationService::WithRawCallbackMethod_GetGeneration<
            v1::ImageGenerationService::WithRawCallbackMethod_FetchGeneration<
                v1::ImageGenerationService::WithRawCallbackMethod_CancelGeneration<
                    v1::ImageGenerationService::WithRawCallbackMethod_GetGenerationTrace<
                        v1::ImageGenerationService::WithRawCallbackMethod_ListModels<
                            v1::ImageGenerationService::WithRawCallbackMethod_GetModel<Base>>>>>>>>;

// Handlers check, admit and return. What is to be stored waits for the disk on threads of its own;
// what is read from it, by handlers, for StoreConfig::max_wait at most.
class ImageService final : public RawImageService<v1::ImageGenerationService::Service> {
 public:
  // All must outlive this.
  ImageService(Admission& admission, Admission::Models& models, Registry& registry,
               const Tracer& tracer, const Guard& guard, const CallServices& services);

  // Waits until nothing waits for a disk any more. After the last call.
  void StopWaiting() { waiting_room_.Stop(); }

  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;

  grpc::ServerWriteReactor<Bytes>* GenerateImages(Context* context, const Bytes* request) override;
  grpc::ServerUnaryReactor* GenerateImagesUnary(Context* context, const Bytes* request,
                                                Bytes* response) override;
  grpc::ServerWriteReactor<Bytes>* FetchGeneration(Context* context, const Bytes* request) override;
  grpc::ServerUnaryReactor* GetGeneration(Context* context, const Bytes* request,
                                          Bytes* response) override;
  grpc::ServerUnaryReactor* CancelGeneration(Context* context, const Bytes* request,
                                             Bytes* response) override;
  grpc::ServerUnaryReactor* GetGenerationTrace(Context* context, const Bytes* request,
                                               Bytes* response) override;
  grpc::ServerUnaryReactor* ListModels(Context* context, const Bytes* request,
                                       Bytes* response) override;
  grpc::ServerUnaryReactor* GetModel(Context* context, const Bytes* request,
                                     Bytes* response) override;

 private:
  void Refused(GenerationCall& call, const std::string& model, const absl::Status& status);
  // Who calls, noted in the call; the call is ended if it may not.
  std::optional<Identity> Enter(GenerationCall& call, const Context& context, const char* method);
  // Admits `request` for `call`, behind its back if that waits for a disk; then `begin` is called
  // with the generation, or the call is ended.
  template <typename Begin>
  void Admit(const std::shared_ptr<GenerationCall>& call, const v1::GenerateImagesRequest& request,
             const Admission::Caller& caller, Begin begin);
  // Parses, handles, answers: the whole of a call that does not wait. Counted as others are, of no
  // model.
  template <typename Request, typename Handler>
  grpc::ServerUnaryReactor* AnswerAtOnce(Context* context, const char* method, const Bytes* bytes,
                                         Bytes* out, Handler handle);
  absl::StatusOr<v1::GetGenerationResponse> Get(const v1::GetGenerationRequest& request,
                                                const Identity& identity) const;
  absl::StatusOr<v1::GetGenerationTraceResponse> Trace(const v1::GetGenerationTraceRequest& request,
                                                       const Identity& identity) const;
  absl::StatusOr<v1::CancelGenerationResponse> Cancel(const v1::CancelGenerationRequest& request,
                                                      const Identity& identity);

  Admission& admission_;
  Admission::Models& models_;
  Registry& registry_;
  const Tracer& tracer_;
  const Guard& guard_;
  const CallServices services_;
  WaitingRoom waiting_room_;  // Ends before what is above.
};

}  // namespace patchflow

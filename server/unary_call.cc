#include "server/unary_call.h"

#include <utility>

#include "server/raw_message.h"
#include "server/status.h"

namespace patchflow {
namespace {

v1::GenerateImagesUnaryResponse MakeResponse(const Generation& generation) {
  v1::GenerateImagesUnaryResponse response;
  const GenerationSpec& spec = generation.spec();
  response.set_request_id(spec.request_id);
  *response.mutable_accepted() = spec.accepted;
  for (int i = 0; i < spec.params().count(); ++i) {
    const auto image = generation.image(i);
    auto* out = response.add_images();
    *out->mutable_header() = image->header;
    out->set_data(image->data);
  }
  *response.mutable_completed() = generation.completed();
  return response;
}

class UnaryCall final : public Unary {
 public:
  UnaryCall(const CallServices& services, const char* method, std::string peer,
            grpc::ByteBuffer* response)
      : Unary(services, method, std::move(peer)), response_(response) {}

  // Owned by gRPC, and holds its call until gRPC is done with both.
  class Reactor final : public grpc::ServerUnaryReactor {
   public:
    explicit Reactor(std::shared_ptr<UnaryCall> call) : call_(std::move(call)) {}
    void OnCancel() override { call_->ClientGone(); }
    void OnDone() override {
      call_->Done();
      delete this;
    }

   private:
    const std::shared_ptr<UnaryCall> call_;
  };

  void Open() { reactor_ = new Reactor(std::static_pointer_cast<UnaryCall>(shared_from_this())); }

  grpc::ServerUnaryReactor* reactor() override { return reactor_; }

  void Answer(const v1::GenerateImagesUnaryResponse& response) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (finished_) {
        return;
      }
      finished_ = true;
      *response_ = SerializeMessage(response);
      bytes_sent_ = response_->Length();
      NoteEnd(absl::OkStatus());
    }
    reactor_->Finish(grpc::Status::OK);
  }

 private:
  void Pump() override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (finished_) {
      return;
    }
    absl::Status end;
    if (forced_end_.has_value()) {
      end = *forced_end_;
    } else {
      const Standing standing = generation_ == nullptr ? Standing{} : generation_->standing();
      if (!standing.ended()) {
        return;
      }
      end = standing.status;
      if (end.ok()) {
        *response_ = SerializeMessage(MakeResponse(*generation_));
        bytes_sent_ = response_->Length();
      }
    }
    finished_ = true;
    NoteEnd(end);
    lock.unlock();
    reactor_->Finish(ToGrpc(end));
  }

  grpc::ByteBuffer* const response_;
  Reactor* reactor_ = nullptr;
};

}  // namespace

std::shared_ptr<Unary> MakeUnary(const CallServices& services, const char* method,
                                 const grpc::CallbackServerContext& context,
                                 grpc::ByteBuffer* response) {
  auto call = std::make_shared<UnaryCall>(services, method, context.peer(), response);
  call->Open();
  return call;
}

}  // namespace patchflow

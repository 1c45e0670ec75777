#include "server/image_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/caller.h"
#include "server/clock.h"
#include "server/errors.h"
#include "server/random.h"
#include "server/raw_message.h"
#include "server/status.h"
#include "server/stream_call.h"
#include "server/trace_spans.h"
#include "server/unary_call.h"
#include "server/validate.h"
#include "server/version.h"

namespace patchflow {
namespace {

constexpr size_t kWaitingThreads = 8;
constexpr size_t kWaitingPlaces = 256;

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp proto;
  const int64_t nanos = absl::ToUnixNanos(time);
  proto.set_seconds(nanos / 1000000000);
  proto.set_nanos(static_cast<int32_t>(nanos % 1000000000));
  return proto;
}

// Of requests that name one.
template <typename Request>
std::string RequestIdOf(const Request& request) {
  if constexpr (requires { request.request_id(); }) {
    return CutText(request.request_id(), 64);
  }
  return "";
}

v1::Completed NothingRan() {
  v1::Completed completed;
  completed.set_server_version(kVersion);
  return completed;
}

// Accepted and Completed of a request that was only validated.
std::vector<v1::GenerateImagesResponse> OnlyValidated(const GenerationSpec& spec) {
  std::vector<v1::GenerateImagesResponse> messages(2);
  for (size_t i = 0; i < messages.size(); ++i) {
    messages[i].set_request_id(spec.request_id);
    messages[i].set_sequence(i + 1);
  }
  *messages[0].mutable_accepted() = spec.accepted;
  *messages[1].mutable_completed() = NothingRan();
  return messages;
}

}  // namespace

ImageService::ImageService(Admission& admission, Admission::Models& models, Registry& registry,
                           const Tracer& tracer, const Guard& guard, const CallServices& services)
    : admission_(admission),
      models_(models),
      registry_(registry),
      tracer_(tracer),
      guard_(guard),
      services_(services),
      waiting_room_(kWaitingThreads, kWaitingPlaces) {}

template <typename Request, typename Handler>
grpc::ServerUnaryReactor* ImageService::AnswerAtOnce(Context* context, const char* method,
                                                     const Bytes* bytes, Bytes* out,
                                                     Handler handle) {
  const auto began = Clock::now();
  services_.metrics.CallBegan(method);
  auto* reactor = context->DefaultReactor();
  CallRecord record{method, "", context->peer(), "", ""};
  auto identity = guard_.Check(ShownBy(*context), method);
  absl::Status status = identity.status();
  Request request;
  if (status.ok()) {
    record.identity = identity->name;
    status = ParseMessage(*bytes, request);
  }
  if (!status.ok()) {
    services_.metrics.Rejected("", status);
  } else {
    record.request_id = RequestIdOf(request);
    auto response = handle(request, *identity);
    status = response.status();
    if (response.ok()) {
      *out = SerializeMessage(*response);
    }
  }
  const auto duration = Clock::now() - began;
  services_.metrics.CallEnded({"", method, "", status, duration});  // Its work is no model's.
  services_.metrics.ResponseBytes("", out->Length());
  Audit(services_.audit, record, status, duration, out->Length());
  reactor->Finish(ToGrpc(status));
  return reactor;
}

std::optional<Identity> ImageService::Enter(GenerationCall& call, const Context& context,
                                            const char* method) {
  auto identity = guard_.Check(ShownBy(context), method);
  if (!identity.ok()) {
    Refused(call, "", identity.status());
    return std::nullopt;
  }
  call.SetCaller(identity->name, "");
  return *std::move(identity);
}

void ImageService::Refused(GenerationCall& call, const std::string& model,
                           const absl::Status& status) {
  if (ReasonOf(status) != reason::kClientCancelled) {
    services_.metrics.Rejected(model, status);
  }
  call.EndWith(status);
}

template <typename Begin>
void ImageService::Admit(const std::shared_ptr<GenerationCall>& call,
                         const v1::GenerateImagesRequest& request, const Admission::Caller& caller,
                         Begin begin) {
  const auto admit = [this, call, begin](const v1::GenerateImagesRequest& asked,
                                         const Admission::Caller& by) {
    auto generation = admission_.Admit(asked, by);
    services_.metrics.Admitted(call->model(), Clock::now() - call->began());
    if (generation.ok()) {
      begin(*std::move(generation));
    } else {
      Refused(*call, asked.model(), generation.status());
    }
  };
  if (!admission_.WaitsForDisk(request)) {
    admit(request, caller);
  } else if (!waiting_room_.Enter([admit, request, caller] { admit(request, caller); })) {
    Refused(*call, request.model(),
            WithRetry(MakeError(absl::StatusCode::kUnavailable, reason::kStoreFailed,
                                "too many requests wait to be stored",
                                {{"limit", absl::StrCat(kWaitingPlaces)}}),
                      Jittered(absl::Seconds(1))));
  }
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ImageService::GenerateImages(Context* context,
                                                                         const Bytes* bytes) {
  auto stream =
      MakeStream(services_, "GenerateImages", context,
                 [](v1::GenerateImagesResponse&& message) { return SerializeMessage(message); });
  auto* reactor = stream->reactor();
  const auto identity = Enter(*stream, *context, "GenerateImages");
  if (!identity.has_value()) {
    return reactor;
  }
  v1::GenerateImagesRequest request;
  if (absl::Status status = ParseMessage(*bytes, request); !status.ok()) {
    Refused(*stream, "", status);
    return reactor;
  }
  stream->SetCaller(identity->name, request.request_id());
  if (auto model = admission_.FindModel(request.model(), "model"); model.ok()) {
    stream->SetModel((*model)->name());
  }
  const Admission::Caller caller{
      false, DeadlineOf(*context), stream, *identity, {stream->began(), TraceParentOf(*context)}};
  if (request.validate_only()) {
    auto checked = admission_.Check(request, caller);
    if (checked.ok()) {
      stream->SendOnly(OnlyValidated(*checked));
    } else {
      Refused(*stream, request.model(), checked.status());
    }
    return reactor;
  }
  Admit(stream, request, caller,
        [stream, options = request.stream(),
         deadline = caller.deadline](std::shared_ptr<Generation> generation) {
          stream->Begin(std::move(generation), options, deadline);
        });
  return reactor;
}

grpc::ServerUnaryReactor* ImageService::GenerateImagesUnary(Context* context, const Bytes* bytes,
                                                            Bytes* response) {
  auto call = MakeUnary(services_, "GenerateImagesUnary", *context, response);
  auto* reactor = call->reactor();
  const auto identity = Enter(*call, *context, "GenerateImagesUnary");
  if (!identity.has_value()) {
    return reactor;
  }
  v1::GenerateImagesUnaryRequest request;
  if (absl::Status status = ParseMessage(*bytes, request); !status.ok()) {
    Refused(*call, "", status);
    return reactor;
  }
  const v1::GenerateImagesRequest& inner = request.generation();
  call->SetCaller(identity->name, inner.request_id());
  if (auto model = admission_.FindModel(inner.model(), "model"); model.ok()) {
    call->SetModel((*model)->name());
  }
  const Admission::Caller caller{
      true, DeadlineOf(*context), call, *identity, {call->began(), TraceParentOf(*context)}};
  if (inner.validate_only()) {
    auto checked = admission_.Check(inner, caller);
    if (!checked.ok()) {
      Refused(*call, inner.model(), checked.status());
      return reactor;
    }
    v1::GenerateImagesUnaryResponse answer;
    answer.set_request_id(checked->request_id);
    *answer.mutable_accepted() = checked->accepted;
    *answer.mutable_completed() = NothingRan();
    call->Answer(answer);
    return reactor;
  }
  Admit(call, inner, caller,
        [call, deadline = caller.deadline](std::shared_ptr<Generation> generation) {
          call->Attach(std::move(generation), deadline);
        });
  return reactor;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ImageService::FetchGeneration(Context* context,
                                                                          const Bytes* bytes) {
  auto stream =
      MakeStream(services_, "FetchGeneration", context, [](v1::GenerateImagesResponse&& message) {
        v1::FetchGenerationResponse response;
        *response.mutable_message() = std::move(message);
        return SerializeMessage(response);
      });
  auto* reactor = stream->reactor();
  const auto identity = Enter(*stream, *context, "FetchGeneration");
  if (!identity.has_value()) {
    return reactor;
  }
  v1::FetchGenerationRequest request;
  absl::Status status = ParseMessage(*bytes, request);
  if (status.ok()) {
    stream->SetCaller(identity->name, request.request_id());
    status = services_.audit.Ready();
  }
  if (status.ok()) {
    status = ValidateRequestId(request.request_id(), true);
  }
  if (status.ok()) {
    status = ValidateStreamOptions(request.stream(), "stream.");
  }
  if (!status.ok()) {
    stream->EndWith(status);
    return reactor;
  }
  auto generation = registry_.Find({identity->name, request.request_id()});
  if (!generation.ok()) {
    stream->EndWith(generation.status());
    return reactor;
  }
  stream->SetModel((*generation)->spec().params().model());
  (*generation)->Join(stream);
  stream->Begin(*std::move(generation), request.stream(), DeadlineOf(*context));
  return reactor;
}

absl::StatusOr<v1::GetGenerationResponse> ImageService::Get(const v1::GetGenerationRequest& request,
                                                            const Identity& identity) const {
  if (absl::Status status = ValidateRequestId(request.request_id(), true); !status.ok()) {
    return status;
  }
  auto found = registry_.Find({identity.name, request.request_id()});
  if (!found.ok()) {
    return found.status();
  }
  const Generation& generation = **found;
  const Standing standing = generation.standing();
  v1::GetGenerationResponse response;
  response.set_request_id(request.request_id());
  response.set_state(standing.state);
  *response.mutable_progress() = generation.ProgressAt(standing);
  *response.mutable_effective() = generation.spec().params();
  *response.mutable_create_time() = ToProto(generation.create_time());
  if (standing.ended()) {
    *response.mutable_end_time() = ToProto(generation.end_time());
  }
  if (!standing.status.ok()) {
    response.set_error_code(static_cast<int>(standing.status.code()));
    response.set_error_reason(ReasonOf(standing.status));
    response.set_error_message(std::string(standing.status.message()));
  }
  return response;
}

grpc::ServerUnaryReactor* ImageService::GetGeneration(Context* context, const Bytes* request,
                                                      Bytes* response) {
  return AnswerAtOnce<v1::GetGenerationRequest>(
      context, "GetGeneration", request, response,
      [this](const v1::GetGenerationRequest& parsed, const Identity& identity) {
        return Get(parsed, identity);
      });
}

absl::StatusOr<v1::GetGenerationTraceResponse> ImageService::Trace(
    const v1::GetGenerationTraceRequest& request, const Identity& identity) const {
  if (absl::Status status = ValidateRequestId(request.request_id(), true); !status.ok()) {
    return status;
  }
  const auto trace = tracer_.Find({identity.name, request.request_id()});
  if (trace == nullptr) {
    return MakeError(absl::StatusCode::kNotFound, reason::kGenerationNotFound,
                     "no trace of such a generation is kept",
                     {{"request_id", request.request_id()}});
  }
  return SpansOf(trace->record());
}

grpc::ServerUnaryReactor* ImageService::GetGenerationTrace(Context* context, const Bytes* request,
                                                           Bytes* response) {
  return AnswerAtOnce<v1::GetGenerationTraceRequest>(
      context, "GetGenerationTrace", request, response,
      [this](const v1::GetGenerationTraceRequest& parsed, const Identity& identity) {
        return Trace(parsed, identity);
      });
}

absl::StatusOr<v1::CancelGenerationResponse> ImageService::Cancel(
    const v1::CancelGenerationRequest& request, const Identity& identity) {
  if (absl::Status status = ValidateRequestId(request.request_id(), true); !status.ok()) {
    return status;
  }
  v1::CancelGenerationResponse response;
  auto generation = registry_.FindOrCancelAhead({identity.name, request.request_id()});
  if (!generation.ok()) {
    return generation.status();
  }
  if (*generation != nullptr) {
    (*generation)
        ->End(MakeError(absl::StatusCode::kCancelled, reason::kCancelledByRequest,
                        "CancelGeneration was called", {{"request_id", request.request_id()}}));
    response.set_state((*generation)->standing().state);
  }
  return response;
}

grpc::ServerUnaryReactor* ImageService::CancelGeneration(Context* context, const Bytes* request,
                                                         Bytes* response) {
  return AnswerAtOnce<v1::CancelGenerationRequest>(
      context, "CancelGeneration", request, response,
      [this](const v1::CancelGenerationRequest& parsed, const Identity& identity) {
        return Cancel(parsed, identity);
      });
}

grpc::ServerUnaryReactor* ImageService::ListModels(Context* context, const Bytes* request,
                                                   Bytes* response) {
  return AnswerAtOnce<v1::ListModelsRequest>(
      context, "ListModels", request, response,
      [this](const v1::ListModelsRequest&,
             const Identity&) -> absl::StatusOr<v1::ListModelsResponse> {
        v1::ListModelsResponse list;
        for (const auto& [name, model] : models_) {
          *list.add_models() = model->Describe();
        }
        return list;
      });
}

grpc::ServerUnaryReactor* ImageService::GetModel(Context* context, const Bytes* request,
                                                 Bytes* response) {
  return AnswerAtOnce<v1::GetModelRequest>(
      context, "GetModel", request, response,
      [this](const v1::GetModelRequest& parsed,
             const Identity&) -> absl::StatusOr<v1::GetModelResponse> {
        if (parsed.name().empty()) {
          return FieldErrors(reason::kInvalidRequest, {{"name", "is required"}});
        }
        auto model = admission_.FindModel(parsed.name(), "name");
        if (!model.ok()) {
          return model.status();
        }
        v1::GetModelResponse found;
        *found.mutable_model() = (*model)->Describe();
        return found;
      });
}

}  // namespace patchflow

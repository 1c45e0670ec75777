#include "server/admin_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/caller.h"
#include "server/errors.h"
#include "server/log.h"
#include "server/status.h"

namespace patchflow {
namespace {

constexpr size_t kMaxNoted = 1024;  // Bytes of what a caller names, in the audit log.

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const char* method,
                                 const absl::Status& status = absl::OkStatus()) {
  LogInfo("admin", {{"method", method}, {"code", absl::StatusCodeToString(status.code())}});
  auto* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace

AdminService::AdminService(AdminActions actions, AuditLog& audit)
    : actions_(std::move(actions)), audit_(audit) {}

grpc::ServerUnaryReactor* AdminService::AnswerChange(Context* context, const char* method,
                                                     const Change& change,
                                                     const absl::Status& status) {
  const Shown shown = ShownBy(*context);
  audit_.Admin({{"method", method},
                {"identity", shown.certificate_name},
                {"peer", shown.peer},
                {"level", CutText(change.level, kMaxNoted)},
                {"model", CutText(change.model, kMaxNoted)},
                {"folder", CutText(change.folder, kMaxNoted)},
                {"code", absl::StatusCodeToString(status.code())},
                {"reason", ReasonOf(status)}});
  return Answer(context, method, status);
}

grpc::ServerUnaryReactor* AdminService::GetStatus(Context* context,
                                                  const admin::v1::GetStatusRequest* /*request*/,
                                                  admin::v1::GetStatusResponse* response) {
  *response = actions_.status();
  return Answer(context, "GetStatus");
}

grpc::ServerUnaryReactor* AdminService::ListWorkers(
    Context* context, const admin::v1::ListWorkersRequest* /*request*/,
    admin::v1::ListWorkersResponse* response) {
  *response = actions_.workers();
  return Answer(context, "ListWorkers");
}

grpc::ServerUnaryReactor* AdminService::Drain(Context* context,
                                              const admin::v1::DrainRequest* /*request*/,
                                              admin::v1::DrainResponse* response) {
  *response = actions_.drain();
  return AnswerChange(context, "Drain", {}, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::Resume(Context* context,
                                               const admin::v1::ResumeRequest* /*request*/,
                                               admin::v1::ResumeResponse* /*response*/) {
  return AnswerChange(context, "Resume", {}, actions_.resume());
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(Context* context,
                                                    const admin::v1::SetLogLevelRequest* request,
                                                    admin::v1::SetLogLevelResponse* response) {
  response->set_previous_level(LogLevel());
  absl::Status status;
  if (!patchflow::SetLogLevel(request->level())) {
    status = FieldErrors(reason::kInvalidRequest,
                         {{"level", absl::StrCat("'", CutText(request->level(), 32),
                                                 "' is none of debug, info, warning, error")}});
  }
  return AnswerChange(context, "SetLogLevel", {.level = request->level()}, status);
}

grpc::ServerUnaryReactor* AdminService::LoadModel(Context* context,
                                                  const admin::v1::LoadModelRequest* request,
                                                  admin::v1::LoadModelResponse* response) {
  auto load = actions_.load(request->model(), request->folder());
  if (load.ok()) {
    *response->mutable_load() = *std::move(load);
  }
  return AnswerChange(context, "LoadModel",
                      {.model = request->model(), .folder = request->folder()}, load.status());
}

}  // namespace patchflow

#include "server/admin_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/log.h"
#include "server/status.h"

namespace patchflow {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const char* method,
                                 const absl::Status& status = absl::OkStatus()) {
  LogInfo("admin", {{"method", method}, {"code", absl::StatusCodeToString(status.code())}});
  auto* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace

AdminService::AdminService(AdminActions actions) : actions_(std::move(actions)) {}

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
  return Answer(context, "Drain");
}

grpc::ServerUnaryReactor* AdminService::Resume(Context* context,
                                               const admin::v1::ResumeRequest* /*request*/,
                                               admin::v1::ResumeResponse* /*response*/) {
  return Answer(context, "Resume", actions_.resume());
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
  return Answer(context, "SetLogLevel", status);
}

grpc::ServerUnaryReactor* AdminService::LoadModel(Context* context,
                                                  const admin::v1::LoadModelRequest* request,
                                                  admin::v1::LoadModelResponse* response) {
  auto load = actions_.load(request->model(), request->folder());
  if (load.ok()) {
    *response->mutable_load() = *std::move(load);
  }
  return Answer(context, "LoadModel", load.status());
}

}  // namespace patchflow

// patchflow.admin.v1.AdminService over gRPC.
#pragma once

#include <grpcpp/server_context.h>

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "patchflow/admin/v1/admin.grpc.pb.h"
#include "server/audit.h"

namespace patchflow {

// What the service can make the server do. Called on gRPC's threads; must not block.
struct AdminActions {
  std::function<admin::v1::GetStatusResponse()> status;
  std::function<admin::v1::ListWorkersResponse()> workers;
  std::function<admin::v1::DrainResponse()> drain;
  std::function<absl::Status()> resume;
  std::function<absl::StatusOr<admin::v1::ModelLoad>(const std::string& model,
                                                     const std::string& folder)>
      load;
};

class AdminService final : public admin::v1::AdminService::CallbackService {
 public:
  // `audit`, which outlives it, is told of each call that is to change something.
  AdminService(AdminActions actions, AuditLog& audit);

  using Context = grpc::CallbackServerContext;

  grpc::ServerUnaryReactor* GetStatus(Context* context, const admin::v1::GetStatusRequest* request,
                                      admin::v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* ListWorkers(Context* context,
                                        const admin::v1::ListWorkersRequest* request,
                                        admin::v1::ListWorkersResponse* response) override;
  grpc::ServerUnaryReactor* Drain(Context* context, const admin::v1::DrainRequest* request,
                                  admin::v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* Resume(Context* context, const admin::v1::ResumeRequest* request,
                                   admin::v1::ResumeResponse* response) override;
  grpc::ServerUnaryReactor* SetLogLevel(Context* context,
                                        const admin::v1::SetLogLevelRequest* request,
                                        admin::v1::SetLogLevelResponse* response) override;
  grpc::ServerUnaryReactor* LoadModel(Context* context, const admin::v1::LoadModelRequest* request,
                                      admin::v1::LoadModelResponse* response) override;

 private:
  // What a call is to change; empty where it is nothing of the kind.
  struct Change {
    std::string level = {};
    std::string model = {};
    std::string folder = {};
  };
  grpc::ServerUnaryReactor* AnswerChange(Context* context, const char* method, const Change& change,
                                         const absl::Status& status);

  const AdminActions actions_;
  AuditLog& audit_;
};

}  // namespace patchflow

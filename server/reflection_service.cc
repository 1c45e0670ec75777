#include "server/reflection_service.h"

#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/impl/server_initializer.h>
#include <grpcpp/support/server_callback.h>

#include <set>

#include "grpc/reflection/v1/reflection.grpc.pb.h"

namespace patchflow {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1::ServerReflection;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;

void NotFound(const char* what, ServerReflectionResponse& response) {
  auto* error = response.mutable_error_response();
  error->set_error_code(grpc::StatusCode::NOT_FOUND);
  error->set_error_message(what);
}

void AddFile(const FileDescriptor& file, std::set<const FileDescriptor*>& added,
             ServerReflectionResponse& response) {
  if (!added.insert(&file).second) {
    return;
  }
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  response.mutable_file_descriptor_response()->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) {
    AddFile(*file.dependency(i), added, response);
  }
}

void AnswerFile(const FileDescriptor* file, const char* missing,
                ServerReflectionResponse& response) {
  if (file == nullptr) {
    NotFound(missing, response);
    return;
  }
  std::set<const FileDescriptor*> added;
  AddFile(*file, added, response);
}

void AnswerExtension(const DescriptorPool& pool,
                     const grpc::reflection::v1::ExtensionRequest& request,
                     ServerReflectionResponse& response) {
  const auto* type = pool.FindMessageTypeByName(request.containing_type());
  if (type == nullptr) {
    NotFound("Type not found.", response);
    return;
  }
  const FieldDescriptor* extension = pool.FindExtensionByNumber(type, request.extension_number());
  AnswerFile(extension == nullptr ? nullptr : extension->file(), "Extension not found.", response);
}

void AnswerExtensionNumbers(const DescriptorPool& pool, const std::string& name,
                            ServerReflectionResponse& response) {
  const auto* type = pool.FindMessageTypeByName(name);
  if (type == nullptr) {
    NotFound("Type not found.", response);
    return;
  }
  auto* numbers = response.mutable_all_extension_numbers_response();
  numbers->set_base_type_name(name);
  std::vector<const FieldDescriptor*> extensions;
  pool.FindAllExtensions(type, &extensions);
  for (const FieldDescriptor* extension : extensions) {
    numbers->add_extension_number(extension->number());
  }
}

// Owned by gRPC.
class ReflectionCall final
    : public grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse> {
 public:
  // `services` outlive the call.
  explicit ReflectionCall(const std::vector<std::string>& services) : services_(services) {
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::OK);
      return;
    }
    response_ = Reflect(*DescriptorPool::generated_pool(), services_, request_);
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client ended the call"));
      return;
    }
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  const std::vector<std::string>& services_;
  ServerReflectionRequest request_;
  ServerReflectionResponse response_;
};

class ReflectionService final : public ServerReflection::CallbackService {
 public:
  explicit ReflectionService(const std::vector<std::string>& services) : services_(services) {}

  grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse>* ServerReflectionInfo(
      grpc::CallbackServerContext* /*context*/) override {
    return new ReflectionCall(services_);
  }

 private:
  const std::vector<std::string>& services_;  // The server's own list, complete once it is built.
};

class ReflectionPlugin final : public grpc::ServerBuilderPlugin {
 public:
  std::string name() override { return "patchflow.reflection.v1"; }
  void InitServer(grpc::ServerInitializer* initializer) override {
    initializer->RegisterService(
        std::make_shared<ReflectionService>(*initializer->GetServiceList()));
  }
  void Finish(grpc::ServerInitializer* /*initializer*/) override {}
  void ChangeArguments(const std::string& /*name*/, void* /*value*/) override {}
};

class ReflectionOption final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::make_unique<ReflectionPlugin>());
  }
};

}  // namespace

ServerReflectionResponse Reflect(const DescriptorPool& pool,
                                 const std::vector<std::string>& services,
                                 const ServerReflectionRequest& request) {
  ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kFileByFilename:
      AnswerFile(pool.FindFileByName(request.file_by_filename()), "File not found.", response);
      break;
    case ServerReflectionRequest::kFileContainingSymbol:
      AnswerFile(pool.FindFileContainingSymbol(request.file_containing_symbol()),
                 "Symbol not found.", response);
      break;
    case ServerReflectionRequest::kFileContainingExtension:
      AnswerExtension(pool, request.file_containing_extension(), response);
      break;
    case ServerReflectionRequest::kAllExtensionNumbersOfType:
      AnswerExtensionNumbers(pool, request.all_extension_numbers_of_type(), response);
      break;
    case ServerReflectionRequest::kListServices:
      for (const std::string& service : services) {
        response.mutable_list_services_response()->add_service()->set_name(service);
      }
      break;
    case ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      response.mutable_error_response()->set_error_code(grpc::StatusCode::UNIMPLEMENTED);
      response.mutable_error_response()->set_error_message("a question of no known kind");
      break;
  }
  return response;
}

std::unique_ptr<grpc::ServerBuilderOption> MakeReflectionOption() {
  return std::make_unique<ReflectionOption>();
}

}  // namespace patchflow

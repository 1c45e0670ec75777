#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "patchflow/v1/image_generation.pb.h"
#include "server/health_service.h"
#include "server/listener.h"
#include "server/reflection_service.h"

namespace patchflow {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;
using grpc::reflection::v1::ServerReflection;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

ServerReflectionRequest FileOf(const std::string& symbol) {
  ServerReflectionRequest request;
  request.set_file_containing_symbol(symbol);
  return request;
}

ServerReflectionRequest ListServices() {
  ServerReflectionRequest request;
  request.set_list_services("*");
  return request;
}

ServerReflectionRequest ExtensionNumbers(const std::string& type) {
  ServerReflectionRequest request;
  request.set_all_extension_numbers_of_type(type);
  return request;
}

ServerReflectionRequest Extension(const std::string& type, int number) {
  ServerReflectionRequest request;
  request.mutable_file_containing_extension()->set_containing_type(type);
  request.mutable_file_containing_extension()->set_extension_number(number);
  return request;
}

ServerReflectionResponse Ask(const ServerReflectionRequest& request) {
  return Reflect(*DescriptorPool::generated_pool(), {"a.B", "c.D"}, request);
}

std::vector<std::string> Files(const ServerReflectionResponse& response) {
  std::vector<std::string> names;
  for (const std::string& bytes : response.file_descriptor_response().file_descriptor_proto()) {
    FileDescriptorProto file;
    EXPECT_TRUE(file.ParseFromString(bytes));
    names.push_back(file.name());
  }
  return names;
}

std::vector<std::string> Services(const ServerReflectionResponse& response) {
  std::vector<std::string> names;
  for (const auto& service : response.list_services_response().service()) {
    names.push_back(service.name());
  }
  return names;
}

TEST(ReflectTest, ListsTheServicesThatItIsGiven) {
  EXPECT_THAT(Services(Ask(ListServices())), ElementsAre("a.B", "c.D"));
}

TEST(ReflectTest, RepeatsHostAndQuestion) {
  ServerReflectionRequest request = FileOf("grpc.health.v1.Health");
  request.set_host("example");
  const auto response = Ask(request);
  EXPECT_EQ(response.valid_host(), "example");
  EXPECT_EQ(response.original_request().SerializeAsString(), request.SerializeAsString());
}

TEST(ReflectTest, FindsTheFileOfAServiceAMethodAndAMessage) {
  for (const char* symbol : {"grpc.health.v1.Health", "grpc.health.v1.Health.Watch",
                             "grpc.health.v1.HealthCheckResponse"}) {
    EXPECT_THAT(Files(Ask(FileOf(symbol))), ElementsAre("grpc/health/v1/health.proto")) << symbol;
  }
}

TEST(ReflectTest, SendsAFileBeforeItsImportsEachOnce) {
  ServerReflectionRequest request;
  request.set_file_by_filename(v1::GenerateImagesRequest::descriptor()->file()->name());
  const auto files = Files(Ask(request));
  ASSERT_FALSE(files.empty());
  EXPECT_EQ(files.front(), "patchflow/v1/image_generation.proto");
  EXPECT_EQ(std::set<std::string>(files.begin(), files.end()).size(), files.size());
  DescriptorPool rebuilt;
  const auto response = Ask(request);
  for (int i = response.file_descriptor_response().file_descriptor_proto_size() - 1; i >= 0; --i) {
    FileDescriptorProto file;
    ASSERT_TRUE(file.ParseFromString(response.file_descriptor_response().file_descriptor_proto(i)));
    EXPECT_NE(rebuilt.BuildFile(file), nullptr) << file.name() << " lacks an import";
  }
  EXPECT_NE(rebuilt.FindServiceByName("patchflow.v1.ImageGenerationService"), nullptr);
}

TEST(ReflectTest, SaysWhatIsNotThere) {
  ServerReflectionRequest file;
  file.set_file_by_filename("no.proto");
  for (const auto& request :
       {file, FileOf("no.Symbol"), FileOf(""), Extension("no.Type", 1), ExtensionNumbers("no.Type"),
        Extension("google.protobuf.MessageOptions", 77777)}) {
    const auto response = Ask(request);
    EXPECT_TRUE(response.has_error_response()) << request.ShortDebugString();
    EXPECT_EQ(response.error_response().error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_NE(response.error_response().error_message(), "");
  }
}

TEST(ReflectTest, RefusesAQuestionOfNoKnownKind) {
  EXPECT_EQ(Ask({}).error_response().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST(ReflectTest, FindsExtensions) {
  FileDescriptorProto base;
  base.set_name("base.proto");
  base.set_package("t");
  base.add_message_type()->set_name("Base");
  auto* range = base.mutable_message_type(0)->add_extension_range();
  range->set_start(100);
  range->set_end(200);
  FileDescriptorProto more;
  more.set_name("more.proto");
  more.add_dependency("base.proto");
  for (int number : {120, 130}) {
    auto* field = more.add_extension();
    field->set_name(absl::StrCat("extra", number));
    field->set_number(number);
    field->set_type(FieldDescriptorProto::TYPE_INT32);
    field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
    field->set_extendee(".t.Base");
  }
  DescriptorPool pool;
  ASSERT_NE(pool.BuildFile(base), nullptr);
  ASSERT_NE(pool.BuildFile(more), nullptr);
  EXPECT_THAT(Files(Reflect(pool, {}, Extension("t.Base", 120))),
              ElementsAre("more.proto", "base.proto"));
  EXPECT_TRUE(Reflect(pool, {}, Extension("t.Base", 121)).has_error_response());
  const auto numbers = Reflect(pool, {}, ExtensionNumbers("t.Base"));
  EXPECT_EQ(numbers.all_extension_numbers_response().base_type_name(), "t.Base");
  EXPECT_THAT(numbers.all_extension_numbers_response().extension_number(),
              UnorderedElementsAre(120, 130));
  EXPECT_THAT(Ask(ExtensionNumbers("grpc.health.v1.HealthCheckRequest"))
                  .all_extension_numbers_response()
                  .extension_number(),
              IsEmpty());
}

// A listener with these services, and a channel to it.
class Reflecting {
 public:
  Reflecting(std::vector<grpc::Service*> services, bool reflection) {
    ListenerOptions options;
    options.key = "test";
    options.address = "127.0.0.1:0";
    options.credentials = grpc::InsecureServerCredentials();
    options.services = std::move(services);
    options.reflection = reflection;
    auto listener = Listen(options);
    EXPECT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    channel_ = grpc::CreateChannel(listener_.address, grpc::InsecureChannelCredentials());
    stub_ = ServerReflection::NewStub(channel_);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    stream_ = stub_->ServerReflectionInfo(&context_);
  }
  ~Reflecting() { listener_.Stop(absl::ZeroDuration()); }

  ServerReflectionResponse Ask(const ServerReflectionRequest& request) {
    ServerReflectionResponse response;
    EXPECT_TRUE(stream_->Write(request) && stream_->Read(&response));
    return response;
  }
  grpc::StatusCode End() {
    stream_->WritesDone();
    return stream_->Finish().error_code();
  }
  Listener& listener() { return listener_; }
  const std::shared_ptr<grpc::Channel>& channel() { return channel_; }

 private:
  Listener listener_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<ServerReflection::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<ServerReflectionRequest, ServerReflectionResponse>>
      stream_;
};

constexpr char kV1[] = "grpc.reflection.v1.ServerReflection";
constexpr char kV1Alpha[] = "grpc.reflection.v1alpha.ServerReflection";

TEST(ReflectionServiceTest, ListsTheServicesOfItsListenerOnly) {
  HealthService health(nullptr);
  Reflecting one({&health}, true);
  Reflecting other({}, true);
  EXPECT_THAT(Services(one.Ask(ListServices())),
              UnorderedElementsAre("grpc.health.v1.Health", kV1, kV1Alpha));
  EXPECT_THAT(Services(other.Ask(ListServices())), UnorderedElementsAre(kV1, kV1Alpha));
}

TEST(ReflectionServiceTest, AnswersOneQuestionAfterTheOther) {
  HealthService health(nullptr);
  Reflecting running({&health}, true);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(running.Ask(FileOf("no.Symbol")).has_error_response());
    EXPECT_THAT(Files(running.Ask(FileOf(kV1))),
                ElementsAre("grpc/reflection/v1/reflection.proto"));
  }
  EXPECT_EQ(running.End(), grpc::StatusCode::OK);
}

TEST(ReflectionServiceTest, IsThereOnlyWhereItIsWanted) {
  HealthService health(nullptr);
  Reflecting with({&health}, true);
  Reflecting without({&health}, false);
  EXPECT_EQ(with.End(), grpc::StatusCode::OK);
  EXPECT_EQ(without.End(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST(ReflectionServiceTest, OutlivesBytesThatAreNoQuestion) {
  HealthService health(nullptr);
  Reflecting running({&health}, true);
  grpc::GenericStub stub(running.channel());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, absl::StrCat("/", kV1, "/ServerReflectionInfo"), &queue);
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Slice nonsense("\xff\xff\xff");
  call->Write(grpc::ByteBuffer(&nonsense, 1), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_FALSE(ok) << "answered what is no question";
  EXPECT_THAT(Services(running.Ask(ListServices())),
              UnorderedElementsAre("grpc.health.v1.Health", kV1, kV1Alpha));
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OK);
}

TEST(ReflectionServiceTest, LetsTheServerStopWhileAStreamIsOpen) {
  HealthService health(nullptr);
  Reflecting running({&health}, true);
  running.Ask(ListServices());
  const auto began = std::chrono::steady_clock::now();
  running.listener().Stop(absl::ZeroDuration());
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
  EXPECT_NE(running.End(), grpc::StatusCode::OK);
}

}  // namespace
}  // namespace patchflow

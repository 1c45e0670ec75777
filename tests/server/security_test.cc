// Who gets in, over gRPC: TLS, client certificates, tokens, and files that change meanwhile.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>

#include "grpc/health/v1/health.grpc.pb.h"
#include "patchflow/admin/v1/admin.grpc.pb.h"
#include "server/log.h"
#include "tests/server/running_server.h"
#include "tests/server/scratch_pki.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

constexpr char kTokens[] = R"(
tokens:
  - {name: studio, token: secret-of-studio, high_priority: true}
  - {name: other, token: secret-of-other1}
  - {name: reader, token: secret-of-reader, methods: [ListModels, GetModel]}
)";

class SecurityTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    pki_ = new ScratchPki;
    for (const char* name : {"server", "next", "client"}) {
      pki_->MakePair(name, name);
    }
    pki_->MakePair("expired", "expired", -1);
  }
  static void TearDownTestSuite() { delete pki_; }

  SecurityTest() {
    Install("server");
    pki_->Write("tokens.yaml", kTokens);
  }

  static void Install(const std::string& pair) {
    pki_->Write("tls.key", pki_->Read(pair + ".key"));
    pki_->Write("tls.crt", pki_->Read(pair + ".crt"));
  }
  static ServerConfig Config(bool client_certificates, bool tokens) {
    ServerConfig config;
    config.security.tls.certificate = pki_->path("tls.crt");
    config.security.tls.key = pki_->path("tls.key");
    config.security.tls.client_ca = client_certificates ? pki_->path("ca.crt") : "";
    config.security.tls.refresh = absl::Milliseconds(100);
    config.security.tokens = tokens ? pki_->path("tokens.yaml") : "";
    return config;
  }
  static std::shared_ptr<grpc::ChannelCredentials> Credentials(const std::string& pair = "") {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = pki_->Read("ca.crt");
    if (!pair.empty()) {
      options.pem_cert_chain = pki_->Read(pair + ".crt");
      options.pem_private_key = pki_->Read(pair + ".key");
    }
    return grpc::SslCredentials(options);
  }
  // On a connection of its own.
  static absl::Status ListModels(RunningServer& running,
                                 const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                 const std::string& token = "", std::string* subject = nullptr) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto stub = v1::ImageGenerationService::NewStub(
        grpc::CreateCustomChannel(running.server().listen_address(), credentials, arguments));
    grpc::ClientContext context;
    RunningServer::Authorize(context, token);
    v1::ListModelsResponse list;
    const grpc::Status status = stub->ListModels(&context, {}, &list);
    if (subject != nullptr && status.ok()) {
      const auto names = context.auth_context()->FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME);
      *subject = names.empty() ? "" : std::string(names[0].data(), names[0].size());
    }
    return FromGrpc(status);
  }
  static std::string SubjectServed(RunningServer& running) {
    std::string subject;
    EXPECT_TRUE(ListModels(running, Credentials(), "", &subject).ok());
    return subject;
  }

  static ScratchPki* pki_;
};

ScratchPki* SecurityTest::pki_ = nullptr;

TEST_F(SecurityTest, SpeaksTlsOnly) {
  RunningServer running(Config(false, false));
  running.Connect(Credentials());
  ASSERT_TRUE(running.Ready());
  EXPECT_TRUE(running.Generate(RunningServer::Request()).status.ok());
  EXPECT_EQ(ListModels(running, grpc::InsecureChannelCredentials()).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(SecurityTest, DemandsACertificateOfTheAuthority) {
  RunningServer running(Config(true, false));
  EXPECT_TRUE(ListModels(running, Credentials("client")).ok());
  EXPECT_EQ(ListModels(running, Credentials()).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ListModels(running, Credentials("expired")).code(), absl::StatusCode::kUnavailable);
  ScratchPki stranger;
  stranger.MakePair("client", "client");
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = pki_->Read("ca.crt");
  options.pem_cert_chain = stranger.Read("client.crt");
  options.pem_private_key = stranger.Read("client.key");
  EXPECT_EQ(ListModels(running, grpc::SslCredentials(options)).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(SecurityTest, GivesRequestIdsToTheOwnerOfTheCertificate) {
  RunningServer running(Config(true, false));
  running.Connect(Credentials("client"));
  ASSERT_TRUE(running.Ready());
  ASSERT_TRUE(running.Generate(RunningServer::Request("a star", "mine")).status.ok());
  running.Connect(Credentials("next"));
  EXPECT_EQ(ReasonOf(running.Fetch("mine").status), "GENERATION_NOT_FOUND");
}

TEST_F(SecurityTest, TakesANewPairWithoutARestart) {
  RunningServer running(Config(false, false));
  EXPECT_EQ(SubjectServed(running), "server");
  Install("next");
  EXPECT_TRUE(Eventually([&] { return SubjectServed(running) == "next"; }));
}

TEST_F(SecurityTest, KeepsTheOldPairWhenTheNewOneIsBroken) {
  ServerConfig config = Config(false, false);
  config.metrics = "127.0.0.1:0";
  RunningServer running(config);
  EXPECT_EQ(SubjectServed(running), "server");
  pki_->Write("tls.key", pki_->Read("next.key"));  // The certificate is still the server's.
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  EXPECT_EQ(SubjectServed(running), "server");
  EXPECT_THAT(running.Scrape(), HasSubstr("patchflow_security_files_broken{what=\"tls\"} 1"));
  EXPECT_THAT(running.Scrape(),
              HasSubstr("patchflow_security_reload_failures_total{what=\"tls\"} 1"));
  pki_->Write("tls.crt", pki_->Read("next.crt"));
  EXPECT_TRUE(Eventually([&] { return SubjectServed(running) == "next"; }));
  EXPECT_THAT(running.Scrape(), HasSubstr("patchflow_security_files_broken{what=\"tls\"} 0"));
}

TEST_F(SecurityTest, RefusesToStartWithAPairThatCannotWork) {
  Install("expired");
  EXPECT_THAT(std::string(Server::Start(Config(false, false)).status().message()),
              HasSubstr("tls.crt: expired"));
  pki_->Write("tls.crt", "nonsense");
  EXPECT_EQ(Server::Start(Config(false, false)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SecurityTest, AsksForATokenWithARightToTheMethod) {
  RunningServer running(Config(false, true));
  running.Connect(Credentials());
  ASSERT_TRUE(running.Ready("secret-of-studio"));
  EXPECT_TRUE(running.Generate(RunningServer::Request(), "secret-of-studio").status.ok());
  for (const char* token : {"", "secret-of-studiO"}) {
    const absl::Status refused = running.Generate(RunningServer::Request(), token).status;
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(ReasonOf(refused), "UNAUTHENTICATED");
    EXPECT_EQ(ReasonOf(ListModels(running, Credentials(), token)), "UNAUTHENTICATED");
    EXPECT_EQ(ReasonOf(running.Fetch("x", token).status), "UNAUTHENTICATED");
  }
  const absl::Status reader = running.Generate(RunningServer::Request(), "secret-of-reader").status;
  EXPECT_EQ(reader.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(MetadataOf(reader, "right"), "GenerateImages");
  EXPECT_TRUE(ListModels(running, Credentials(), "secret-of-reader").ok());
}

TEST_F(SecurityTest, GivesHighPriorityToThoseWithTheRight) {
  RunningServer running(Config(false, true));
  running.Connect(Credentials());
  ASSERT_TRUE(running.Ready("secret-of-studio"));
  auto request = RunningServer::Request();
  request.mutable_scheduling()->set_priority(v1::PRIORITY_HIGH);
  EXPECT_TRUE(running.Generate(request, "secret-of-studio").status.ok());
  const absl::Status refused = running.Generate(request, "secret-of-other1").status;
  EXPECT_EQ(ReasonOf(refused), "PERMISSION_DENIED");
  EXPECT_EQ(MetadataOf(refused, "right"), "high_priority");
}

TEST_F(SecurityTest, HidesTheIdsOfOthers) {
  RunningServer running(Config(false, true));
  running.Connect(Credentials());
  ASSERT_TRUE(running.Ready("secret-of-studio"));
  const auto request = RunningServer::Request("a star", "id");
  ASSERT_TRUE(running.Generate(request, "secret-of-studio").status.ok());
  EXPECT_EQ(ReasonOf(running.Fetch("id", "secret-of-other1").status), "GENERATION_NOT_FOUND");
  EXPECT_TRUE(
      running.Generate(RunningServer::Request("else", "id"), "secret-of-other1").status.ok())
      << "another owner's id is free";
}

TEST_F(SecurityTest, TakesNewTokensAndKeepsTheOldWhenTheyAreBroken) {
  RunningServer running(Config(false, true));
  pki_->Write("tokens.yaml", "tokens: [{name: new, token: short}]");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_TRUE(ListModels(running, Credentials(), "secret-of-studio").ok());
  pki_->Write("tokens.yaml", "tokens: [{name: new, token: secret-of-the-new}]");
  EXPECT_TRUE(
      Eventually([&] { return ListModels(running, Credentials(), "secret-of-the-new").ok(); }));
  EXPECT_EQ(ReasonOf(ListModels(running, Credentials(), "secret-of-studio")), "UNAUTHENTICATED")
      << "a token that was taken out is worth nothing";
}

grpc::StatusCode Health(RunningServer& running, const std::string& token) {
  auto stub = grpc::health::v1::Health::NewStub(running.channel());
  grpc::ClientContext context;
  RunningServer::Authorize(context, token);
  grpc::health::v1::HealthCheckResponse response;
  return stub->Check(&context, {}, &response).error_code();
}

// The status of a call to this version of reflection that asks nothing.
grpc::StatusCode Reflect(RunningServer& running, const std::string& token,
                         const std::string& version) {
  grpc::GenericStub stub(running.channel());
  grpc::ClientContext context;
  RunningServer::Authorize(context, token);
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(
      &context, "/grpc.reflection." + version + ".ServerReflection/ServerReflectionInfo", &queue);
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(nullptr);
  queue.Next(&tag, &ok);
  call->WritesDone(nullptr);
  queue.Next(&tag, &ok);
  grpc::Status status;
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
  return status.error_code();
}

TEST_F(SecurityTest, GuardsHealthAndReflectionToo) {
  RunningServer running(Config(false, true));
  running.Connect(Credentials());
  EXPECT_EQ(Health(running, ""), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Health(running, "secret-of-reader"), grpc::StatusCode::OK);
  for (const char* version : {"v1", "v1alpha"}) {
    EXPECT_EQ(Reflect(running, "", version), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(Reflect(running, "wrong-secret-of-x", version), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(Reflect(running, "secret-of-reader", version), grpc::StatusCode::OK);
  }
}

TEST_F(SecurityTest, ReflectsNothingWhereNothingCanGuardIt) {
  ServerConfig config = Config(false, true);
  config.security.tls = {};
  RunningServer running(config);
  EXPECT_TRUE(running.Ready("secret-of-studio"));
  for (const char* version : {"v1", "v1alpha"}) {
    EXPECT_EQ(Reflect(running, "secret-of-studio", version), grpc::StatusCode::UNIMPLEMENTED);
  }
}

class AdminTest : public ::testing::Test {
 protected:
  AdminTest() {
    ServerConfig config;
    config.admin = "127.0.0.1:0";
    config.audit.file = folder_.path("audit.jsonl");
    running_ = std::make_unique<RunningServer>(config);
    EXPECT_TRUE(running_->Ready());
    stub_ = admin::v1::AdminService::NewStub(grpc::CreateChannel(
        running_->server().admin_address(), grpc::InsecureChannelCredentials()));
  }
  template <typename Request, typename Response>
  Response Call(grpc::Status (admin::v1::AdminService::Stub::*method)(grpc::ClientContext*,
                                                                      const Request&, Response*),
                const Request& request, absl::Status* status = nullptr) {
    grpc::ClientContext context;
    RunningServer::Authorize(context, "");
    Response response;
    const grpc::Status answered = (stub_.get()->*method)(&context, request, &response);
    if (status != nullptr) {
      *status = FromGrpc(answered);
    } else {
      EXPECT_TRUE(answered.ok()) << answered.error_message();
    }
    return response;
  }

  // Ends the server.
  std::vector<nlohmann::json> Audited() {
    running_.reset();
    std::ifstream file(folder_.path("audit.jsonl"));
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(file, line);) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  ScratchFolder folder_;
  std::unique_ptr<RunningServer> running_;
  std::unique_ptr<admin::v1::AdminService::Stub> stub_;
  using Stub = admin::v1::AdminService::Stub;
};

TEST_F(AdminTest, TellsStatusAndWorkers) {
  const auto status = Call(&Stub::GetStatus, admin::v1::GetStatusRequest());
  EXPECT_TRUE(status.ready());
  EXPECT_FALSE(status.draining());
  ASSERT_EQ(status.models_size(), 1);
  EXPECT_EQ(status.models(0).name(), "shapes");
  EXPECT_EQ(status.models(0).queue_capacity(), 256);
  const auto list = Call(&Stub::ListWorkers, admin::v1::ListWorkersRequest());
  ASSERT_EQ(list.workers_size(), 1);
  EXPECT_EQ(list.workers(0).state(), "serving");
  EXPECT_EQ(list.workers(0).plan_digest(), "plan-1");
  EXPECT_EQ(list.workers(0).ranks_size(), 2);
}

TEST_F(AdminTest, DrainsAndResumes) {
  Call(&Stub::Drain, admin::v1::DrainRequest());
  EXPECT_EQ(ReasonOf(running_->Generate(RunningServer::Request()).status), "DRAINING");
  EXPECT_TRUE(Call(&Stub::GetStatus, admin::v1::GetStatusRequest()).draining());
  EXPECT_FALSE(Call(&Stub::GetStatus, admin::v1::GetStatusRequest()).ready());
  Call(&Stub::Resume, admin::v1::ResumeRequest());
  EXPECT_TRUE(running_->Generate(RunningServer::Request()).status.ok());
  EXPECT_TRUE(Call(&Stub::GetStatus, admin::v1::GetStatusRequest()).ready());
}

TEST_F(AdminTest, SetsTheLogLevel) {
  const std::string before = LogLevel();
  admin::v1::SetLogLevelRequest request;
  request.set_level("debug");
  EXPECT_EQ(Call(&Stub::SetLogLevel, request).previous_level(), before);
  EXPECT_EQ(LogLevel(), "debug");
  request.set_level("loud");
  absl::Status status;
  Call(&Stub::SetLogLevel, request, &status);
  EXPECT_EQ(ReasonOf(status), "INVALID_REQUEST");
  EXPECT_EQ(LogLevel(), "debug");
  SetLogLevel(before);
}

TEST_F(AdminTest, WritesWhatItChangesIntoTheAuditLog) {
  const std::string before = LogLevel();
  Call(&Stub::GetStatus, admin::v1::GetStatusRequest());
  Call(&Stub::ListWorkers, admin::v1::ListWorkersRequest());
  Call(&Stub::Drain, admin::v1::DrainRequest());
  Call(&Stub::Resume, admin::v1::ResumeRequest());
  absl::Status refused;
  admin::v1::SetLogLevelRequest level;
  level.set_level(before);
  Call(&Stub::SetLogLevel, level);
  level.set_level("loud");
  Call(&Stub::SetLogLevel, level, &refused);
  admin::v1::LoadModelRequest load;
  load.set_model("shapes");
  load.set_folder("/weights/" + std::string(5000, 'x'));
  Call(&Stub::LoadModel, load, &refused);
  std::vector<nlohmann::json> lines;
  for (const auto& line : Audited()) {
    if (line["event"] != "call") {
      EXPECT_EQ(line["event"], "admin");
      EXPECT_EQ(line["identity"], "");
      EXPECT_EQ(line["peer"].get<std::string>().rfind("ipv4:127.0.0.1:", 0), 0U) << line;
      lines.push_back(line);
    }
  }
  const std::vector<std::array<std::string, 4>> expected = {
      {"Drain", "OK", "", ""},
      {"Resume", "OK", "", ""},
      {"SetLogLevel", "OK", before, ""},
      {"SetLogLevel", "INVALID_ARGUMENT", "loud", ""},
      {"LoadModel", absl::StatusCodeToString(refused.code()), "", "shapes"}};
  ASSERT_EQ(lines.size(), expected.size()) << "what only asks is not in it";
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ((std::array<std::string, 4>{lines[i]["method"], lines[i]["code"], lines[i]["level"],
                                          lines[i]["model"]}),
              expected[i]);
  }
  EXPECT_EQ(lines[3]["reason"], "INVALID_REQUEST");
  EXPECT_FALSE(refused.ok());
  EXPECT_EQ(lines[4]["reason"], ReasonOf(refused));
  EXPECT_EQ(lines[4]["folder"].get<std::string>().rfind("/weights/xxx", 0), 0U);
  EXPECT_LT(lines[4]["folder"].get<std::string>().size(), 1100U);
}

TEST_F(AdminTest, IsNotOnThePublicListener) {
  auto stub = admin::v1::AdminService::NewStub(running_->channel());
  grpc::ClientContext context;
  RunningServer::Authorize(context, "");
  admin::v1::GetStatusResponse response;
  EXPECT_EQ(stub->GetStatus(&context, {}, &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace patchflow

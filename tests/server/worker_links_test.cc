// The front end and a worker over TCP: who is let in, and what is said of who is not.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "patchflow/admin/v1/admin.grpc.pb.h"
#include "server/server.h"
#include "server/server_credentials.h"
#include "server/tls_pair.h"
#include "tests/server/fake_worker.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_pki.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

int FreePort() {
  const int opened = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  bind(opened, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(opened, reinterpret_cast<sockaddr*>(&address), &size);
  close(opened);
  return ntohs(address.sin_port);
}

class WorkerLinksTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    pki_ = new ScratchPki;
    pki_->MakePair("front", "front");
    pki_->MakePair("worker", "worker");
    pki_->MakePair("old", "worker", -1);
    other_ = new ScratchPki;
    other_->MakePair("front", "front");
  }
  static void TearDownTestSuite() {
    delete pki_;
    delete other_;
  }

  // Shows `pair`, and lets in who has a certificate of the authority.
  void StartWorker(const std::string& pair) {
    TlsPair files;
    files.certificate = pki_->Read(pair + ".crt");
    files.key = pki_->Read(pair + ".key");
    files.client_ca = pki_->Read("ca.crt");
    tls_ = *TlsCredentials::Make(files);
    FakeWorkerOptions options;
    options.address = address_;
    options.credentials = tls_->credentials();
    worker_ = FakeWorker::Start(options);
    ASSERT_NE(worker_, nullptr);
  }
  static WorkerLinks Links(const ScratchPki& pki, const std::string& pair,
                           const ScratchPki& authority) {
    WorkerLinks links;
    links.tls.certificate = pki.path(pair + ".crt");
    links.tls.key = pki.path(pair + ".key");
    links.tls.client_ca = authority.path("ca.crt");
    return links;
  }
  absl::Status StartServer(const WorkerLinks& links) {
    ServerConfig config;
    config.listen = "127.0.0.1:0";
    config.admin = "127.0.0.1:0";
    config.security.workers = links;
    GroupConfig group;
    group.name = "g";
    group.model_name = "shapes";
    group.workers = {address_};
    config.groups = {group};
    auto server = Server::Start(config);
    if (server.ok()) {
      server_ = *std::move(server);
      admin_ = admin::v1::AdminService::NewStub(
          grpc::CreateChannel(server_->admin_address(), grpc::InsecureChannelCredentials()));
    }
    return server.status();
  }
  admin::v1::Worker Told() {
    grpc::ClientContext context;
    admin::v1::ListWorkersResponse list;
    EXPECT_TRUE(admin_->ListWorkers(&context, {}, &list).ok());
    return list.workers(0);
  }
  bool Serves() {
    return Eventually([&] { return Told().state() == "serving"; });
  }
  // What is said once the worker was asked in vain.
  std::string Complaint() {
    EXPECT_TRUE(Eventually([&] { return !Told().failure().empty(); }));
    EXPECT_EQ(Told().state(), "starting");
    return Told().failure();
  }

  static ScratchPki* pki_;
  static ScratchPki* other_;  // Another authority.
  const std::string address_ = absl::StrCat("127.0.0.1:", FreePort());
  std::unique_ptr<TlsCredentials> tls_;
  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<admin::v1::AdminService::Stub> admin_;
};

ScratchPki* WorkerLinksTest::pki_ = nullptr;
ScratchPki* WorkerLinksTest::other_ = nullptr;

TEST_F(WorkerLinksTest, ServeWhereBothEndsAreKnown) {
  StartWorker("worker");
  ASSERT_TRUE(StartServer(Links(*pki_, "front", *pki_)).ok());
  EXPECT_TRUE(Serves()) << Told().failure();
}

TEST_F(WorkerLinksTest, ComeBackAfterAWorkerWasNotThere) {
  ASSERT_TRUE(StartServer(Links(*pki_, "front", *pki_)).ok());
  EXPECT_THAT(Complaint(), HasSubstr(absl::StrCat(address_, " is not reached: ")));
  StartWorker("worker");
  EXPECT_TRUE(Serves());
  EXPECT_EQ(Told().failure(), "");
}

TEST_F(WorkerLinksTest, LetNobodyInWithoutTls) {
  StartWorker("worker");
  ASSERT_TRUE(StartServer({}).ok());
  EXPECT_THAT(Complaint(), HasSubstr("is not reached"));
}

TEST_F(WorkerLinksTest, LetNobodyInWithTheCertificateOfAnotherAuthority) {
  StartWorker("worker");
  ASSERT_TRUE(StartServer(Links(*other_, "front", *pki_)).ok());
  EXPECT_THAT(Complaint(), HasSubstr("is not reached"));
}

TEST_F(WorkerLinksTest, TrustNoWorkerOfAnotherAuthority) {
  StartWorker("worker");
  ASSERT_TRUE(StartServer(Links(*pki_, "front", *other_)).ok());
  EXPECT_THAT(Complaint(), HasSubstr("certificate verify failed"));
}

TEST_F(WorkerLinksTest, TrustNoWorkerWhoseCertificateHasExpired) {
  StartWorker("old");
  ASSERT_TRUE(StartServer(Links(*pki_, "front", *pki_)).ok());
  EXPECT_THAT(Complaint(), HasSubstr("certificate verify failed"));
}

TEST_F(WorkerLinksTest, RefuseToStartWithACertificateThatHasExpired) {
  const absl::Status status = StartServer(Links(*pki_, "old", *pki_));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("security.workers.certificate: " + pki_->path("old.crt") + ": expired"));
}

}  // namespace
}  // namespace patchflow

// The front end and a worker over TCP: who is let in, and what is said of who is not.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "patchflow/admin/v1/admin.grpc.pb.h"
#include "server/server.h"
#include "tests/server/fake_worker.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_pki.h"
#include "tls/tls_credentials.h"

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
    other_->MakePair("worker", "worker");
  }
  static void TearDownTestSuite() {
    delete pki_;
    delete other_;
  }

  // Shows `pair`, and lets in who has a certificate of the authority.
  void StartWorker(const std::string& pair, const ScratchPki& pki = *pki_) {
    TlsPair files;
    files.certificate = pki.Read(pair + ".crt");
    files.key = pki.Read(pair + ".key");
    files.authorities = pki.Read("ca.crt");
    tls_ = *TlsCredentials::Make(files);
    FakeWorkerOptions options;
    options.address = address_;
    options.credentials = tls_->of_listener();
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
    config.metrics = "127.0.0.1:0";
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
  std::string Scrape() {
    auto response = httplib::Client("http://" + server_->metrics_address()).Get("/metrics");
    return response ? response->body : "";
  }
  bool Says(const std::string& series) {
    return Eventually([&] { return Scrape().find("\n" + series + "\n") != std::string::npos; });
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

// The files of a link, replaced while it runs.
class ReplacedLinksTest : public WorkerLinksTest {
 protected:
  void SetUp() override {
    Install(*pki_, *pki_);
    WorkerLinks links = Links(now_, "now", now_);
    links.tls.refresh = absl::Milliseconds(50);
    StartWorker("worker");
    ASSERT_TRUE(StartServer(links).ok());
    ASSERT_TRUE(Serves()) << Told().failure();
  }
  void Install(const ScratchPki& pki, const ScratchPki& authority) {
    now_.Write("now.crt", pki.Read("front.crt"));
    now_.Write("now.key", pki.Read("front.key"));
    now_.Write("ca.crt", authority.Read("ca.crt"));
  }
  // A new connection, to a worker of this authority.
  void Reconnect(const ScratchPki& pki) {
    worker_.reset();
    ASSERT_TRUE(Eventually([&] { return Told().state() != "serving"; }));
    StartWorker("worker", pki);
  }

  ScratchPki now_;
};

TEST_F(ReplacedLinksTest, KeepTheOldPairWhenTheNewOneIsBroken) {
  EXPECT_TRUE(Says("patchflow_security_files_broken{what=\"workers\"} 0"));
  now_.Write("now.key", "garbage");
  EXPECT_TRUE(Says("patchflow_security_files_broken{what=\"workers\"} 1"));
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // gRPC looks each second.
  Reconnect(*pki_);
  EXPECT_TRUE(Serves()) << Told().failure();
  EXPECT_TRUE(Says("patchflow_security_reload_failures_total{what=\"workers\"} 1")) << "once";
  EXPECT_TRUE(Says("patchflow_security_files_broken{what=\"tls\"} 0"));
}

TEST_F(ReplacedLinksTest, TakeANewPairAndANewAuthorityWhateverWasThereBetween) {
  for (const char* file : {"now.crt", "now.key", "ca.crt"}) {
    now_.Write(file, "");
  }
  EXPECT_TRUE(Says("patchflow_security_files_broken{what=\"workers\"} 1"));
  Install(*other_, *other_);
  EXPECT_TRUE(Says("patchflow_security_files_broken{what=\"workers\"} 0"));
  Reconnect(*other_);
  EXPECT_TRUE(Serves()) << Told().failure();
}

TEST_F(ReplacedLinksTest, TellWhenTheCertificateExpires) {
  const std::string scraped = Scrape();
  const std::string series = "\npatchflow_tls_certificate_expiry_timestamp_seconds{what=\"";
  EXPECT_THAT(scraped, HasSubstr(series + "tls\"} 0\n"));
  const size_t at = scraped.find(series + "workers\"} ");
  ASSERT_NE(at, std::string::npos);
  const double end = std::stod(scraped.substr(scraped.find(' ', at)));
  EXPECT_NEAR(end, absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()) + 30 * 86400, 3600);
}

TEST_F(WorkerLinksTest, RefuseToStartWithACertificateThatHasExpired) {
  const absl::Status status = StartServer(Links(*pki_, "old", *pki_));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("security.workers.certificate: " + pki_->path("old.crt") + ": expired"));
}

}  // namespace
}  // namespace patchflow

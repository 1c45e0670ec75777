#include "client/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "absl/time/clock.h"
#include "client/unary_call.h"
#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

ConnectionOptions OptionsFor(const std::string& server) {
  ConnectionOptions options;
  options.server = server;
  options.timeout = "20s";
  options.retry.retries = 0;
  return options;
}

std::string Refusal(const ConnectionOptions& options) {
  const absl::Status status = Connection::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

absl::Status ListModels(const ConnectionOptions& options) {
  const auto connection = Connection::Open(options);
  if (!connection.ok()) return connection.status();
  Interrupt interrupt;
  return Call(*connection, interrupt, &v1::ImageGenerationService::Stub::ListModels,
              v1::ListModelsRequest())
      .status();
}

TEST(ParseTimeoutTest, TakesSecondsAndUnits) {
  EXPECT_EQ(ParseTimeout("90").value(), absl::Seconds(90));
  EXPECT_EQ(ParseTimeout("0.5").value(), absl::Milliseconds(500));
  EXPECT_EQ(ParseTimeout("1m30s").value(), absl::Seconds(90));
  EXPECT_EQ(ParseTimeout("250ms").value(), absl::Milliseconds(250));
}

TEST(ParseTimeoutTest, RefusesWhatIsNoBound) {
  for (const char* text : {"", "soon", "0", "-1", "-5s", "nan", "inf", "1e300", "999999h"}) {
    EXPECT_EQ(ParseTimeout(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ConnectionTest, NamesTheOptionThatIsWrong) {
  const ScratchFolder folder;
  std::ofstream(folder / "empty").close();
  ConnectionOptions options = OptionsFor("localhost:1");
  options.tls_ca = folder / "absent";
  EXPECT_EQ(Refusal(options), "--tls-ca: can't read " + folder / "absent");
  options = OptionsFor("localhost:1");
  options.tls_cert = folder / "empty";
  EXPECT_EQ(Refusal(options), "--tls-cert and --tls-key go together");
  options = OptionsFor("localhost:1");
  options.token_file = folder / "empty";
  EXPECT_EQ(Refusal(options), "--token-file: can't read " + folder / "empty");
  options = OptionsFor("localhost:1");
  options.tls_server_name = "name";
  EXPECT_EQ(Refusal(options), "--tls-server-name has no meaning without TLS");
  options = OptionsFor("localhost:1");
  options.timeout = "never";
  EXPECT_THAT(Refusal(options), HasSubstr("--timeout: \"never\""));
}

TEST(ConnectionTest, KeepsTheTokenFromLeavingUnencrypted) {
  const ScratchFolder folder;
  std::ofstream(folder / "token") << "secret\n";
  ConnectionOptions options = OptionsFor("gpu-host:50051");
  options.token_file = folder / "token";
  EXPECT_EQ(
      Refusal(options),
      "--token-file: the token would go to gpu-host:50051 unencrypted; add --tls or --tls-ca");
  for (const char* server : {"localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/run/x"}) {
    options.server = server;
    EXPECT_TRUE(Connection::Open(options).ok()) << server;
  }
  options.server = "gpu-host:50051";
  options.tls = true;
  EXPECT_TRUE(Connection::Open(options).ok());
  options.server = "localhost.example.com:50051";
  options.tls = false;
  EXPECT_THAT(Refusal(options), HasSubstr("unencrypted"));
}

TEST(ConnectionTest, SendsTokenAndUserAgent) {
  const ScratchFolder folder;
  std::ofstream(folder / "token") << "secret\n";
  FakeService service;
  std::multimap<std::string, std::string> seen;
  service.on_list = [&](grpc::ServerContext& context, v1::ListModelsResponse&) {
    for (const auto& [key, value] : context.client_metadata()) {
      seen.emplace(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
    }
    return grpc::Status::OK;
  };
  const FakeServer server(service);
  ConnectionOptions options = OptionsFor(server.address());
  options.token_file = folder / "token";
  ASSERT_TRUE(ListModels(options).ok());
  EXPECT_EQ(seen.find("authorization")->second, "Bearer secret");
  EXPECT_THAT(seen.find("user-agent")->second, HasSubstr("patchflow-client/"));
}

TEST(ConnectionTest, HandsOnTheTraceOfItsEnvironment) {
  FakeService service;
  std::string seen;
  service.on_list = [&](grpc::ServerContext& context, v1::ListModelsResponse&) {
    const auto found = context.client_metadata().find("traceparent");
    seen = found == context.client_metadata().end()
               ? "none"
               : std::string(found->second.data(), found->second.size());
    return grpc::Status::OK;
  };
  const FakeServer server(service);
  const auto sent_with = [&](const char* value) {
    setenv("TRACEPARENT", value, 1);
    EXPECT_TRUE(ListModels(OptionsFor(server.address())).ok());
    unsetenv("TRACEPARENT");
    return seen;
  };
  const char* parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_EQ(sent_with(parent), parent);
  EXPECT_EQ(sent_with(""), "none");
  EXPECT_EQ(sent_with("what\nis this"), "none") << "can't be metadata";
}

TEST(ConnectionTest, GivesUpAtTheTimeout) {
  FakeService service;
  service.on_list = [](grpc::ServerContext& context, v1::ListModelsResponse&) {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (!context.IsCancelled() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(5));
    return grpc::Status::OK;
  };
  const FakeServer server(service);
  ConnectionOptions options = OptionsFor(server.address());
  options.timeout = "100ms";
  const absl::Time start = absl::Now();
  EXPECT_EQ(ListModels(options).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

// An authority, and certificates that it signed.
class TlsTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string make =
        "set -e; cd '" + folder_ / "" +
        "'; exec 2>/dev/null; ec='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'; "
        "openssl req -x509 $ec -keyout ca.key -out ca.pem -days 2 -subj /CN=authority; "
        "for who in server client; do openssl req $ec -keyout $who.key -out $who.csr -subj "
        "/CN=$who "
        "-addext subjectAltName=DNS:patchflow.test; openssl x509 -req -in $who.csr -CA ca.pem "
        "-CAkey ca.key "
        "-CAcreateserial -copy_extensions copy -days 2 -out $who.pem; done; "
        "openssl req -x509 $ec -keyout other.key -out other.pem -days 2 -subj /CN=stranger";
    ASSERT_EQ(std::system(make.c_str()), 0);
  }

  std::shared_ptr<grpc::ServerCredentials> ServerCredentials(
      grpc_ssl_client_certificate_request_type request) {
    grpc::SslServerCredentialsOptions options(request);
    options.pem_root_certs = ReadFile(folder_ / "ca.pem");
    options.pem_key_cert_pairs.push_back(
        {ReadFile(folder_ / "server.key"), ReadFile(folder_ / "server.pem")});
    return grpc::SslServerCredentials(options);
  }

  ScratchFolder folder_;
  FakeService service_;
};

TEST_F(TlsTest, TrustsTheGivenAuthorityOnly) {
  const FakeServer server(service_, ServerCredentials(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE));
  ConnectionOptions options = OptionsFor(server.address());
  options.tls_ca = folder_ / "ca.pem";
  options.tls_server_name = "patchflow.test";
  EXPECT_TRUE(ListModels(options).ok()) << ListModels(options);
  options.tls_ca = folder_ / "other.pem";
  EXPECT_EQ(ListModels(options).code(), absl::StatusCode::kUnavailable);
  options.tls_ca = folder_ / "ca.pem";
  options.tls_server_name = "elsewhere.test";
  EXPECT_EQ(ListModels(options).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ListModels(OptionsFor(server.address())).code(), absl::StatusCode::kUnavailable);
}

TEST_F(TlsTest, ShowsItsCertificate) {
  const FakeServer server(
      service_, ServerCredentials(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY));
  ConnectionOptions options = OptionsFor(server.address());
  options.tls_ca = folder_ / "ca.pem";
  options.tls_server_name = "patchflow.test";
  EXPECT_EQ(ListModels(options).code(), absl::StatusCode::kUnavailable);
  options.tls_cert = folder_ / "client.pem";
  options.tls_key = folder_ / "client.key";
  EXPECT_TRUE(ListModels(options).ok()) << ListModels(options);
  options.tls_cert = folder_ / "other.pem";
  options.tls_key = folder_ / "other.key";
  EXPECT_EQ(ListModels(options).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace patchflow

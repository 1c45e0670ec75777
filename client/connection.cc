#include "client/connection.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

// A chunk of an image has at most 1 MiB; a preview is smaller.
constexpr int kMaxMessageBytes = 4 << 20;

absl::StatusOr<std::string> ReadOption(const char* option, const std::string& file) {
  if (file.empty()) return std::string();
  std::ifstream stream(file, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream || content.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": can't read ", file));
  }
  return content;
}

bool IsThisMachine(const std::string& server) {
  return absl::StartsWith(server, "localhost:") || absl::StartsWith(server, "127.") ||
         absl::StartsWith(server, "[::1]:") || absl::StartsWith(server, "unix:");
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(
    const ConnectionOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  const bool tls = options.tls || !options.tls_ca.empty() || !options.tls_cert.empty();
  if (!tls) {
    if (!options.tls_server_name.empty()) {
      return absl::InvalidArgumentError("--tls-server-name has no meaning without TLS");
    }
    if (!options.token_file.empty() && !IsThisMachine(options.server)) {
      return absl::InvalidArgumentError(absl::StrCat("--token-file: the token would go to ",
                                                     options.server,
                                                     " unencrypted; add --tls or --tls-ca"));
    }
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions ssl;
  struct Source {
    const char* option;
    const std::string& file;
    std::string& content;
  };
  for (const Source& source : {Source{"--tls-ca", options.tls_ca, ssl.pem_root_certs},
                               Source{"--tls-cert", options.tls_cert, ssl.pem_cert_chain},
                               Source{"--tls-key", options.tls_key, ssl.pem_private_key}}) {
    auto content = ReadOption(source.option, source.file);
    if (!content.ok()) return content.status();
    source.content = *std::move(content);
  }
  return grpc::SslCredentials(ssl);
}

grpc::ChannelArguments Arguments(const ConnectionOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetUserAgentPrefix(absl::StrCat("patchflow-client/", PATCHFLOW_VERSION));
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // A failed connection is tried again as often as our own retries come.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // Each Connection has a TCP connection.
  if (IsThisMachine(options.server)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (!options.tls_server_name.empty()) arguments.SetSslTargetNameOverride(options.tls_server_name);
  return arguments;
}

// Empty if there is none, or nothing that can be metadata; the server judges the rest.
std::string TraceparentOfEnvironment() {
  const char* const set = std::getenv("TRACEPARENT");
  const std::string text = set == nullptr ? "" : set;
  return text.find_first_not_of("0123456789abcdef-") == std::string::npos ? text : "";
}

}  // namespace

void AddConnectionOptions(CLI::App& command, ConnectionOptions& options,
                          const std::string& timeout) {
  options.timeout = timeout;
  command.add_option("-s,--server", options.server, "Address of the server, or unix:PATH")
      ->envname("PATCHFLOW_SERVER")
      ->type_name("HOST:PORT")
      ->capture_default_str()
      ->group("Connection");
  command.add_flag("--tls", options.tls, "Speak TLS, trusting the system's authorities")
      ->group("Connection");
  command
      .add_option("--tls-ca", options.tls_ca,
                  "Speak TLS, trusting the authorities of this PEM file")
      ->type_name("FILE")
      ->group("Connection");
  command
      .add_option("--tls-cert", options.tls_cert,
                  "Show the server this certificate (PEM; with --tls-key)")
      ->type_name("FILE")
      ->group("Connection");
  command.add_option("--tls-key", options.tls_key, "The certificate's private key (PEM)")
      ->type_name("FILE")
      ->group("Connection");
  command
      .add_option("--tls-server-name", options.tls_server_name,
                  "Name to be found in the server's certificate, if not the host's")
      ->type_name("NAME")
      ->group("Connection");
  command.add_option("--token-file", options.token_file, "Send the bearer token in this file")
      ->envname("PATCHFLOW_TOKEN_FILE")
      ->type_name("FILE")
      ->group("Connection");
  command
      .add_option("--timeout", options.timeout,
                  "Give up after so long, retries included: 90, 1.5s, 10m")
      ->type_name("TIME")
      ->capture_default_str()
      ->group("Connection");
  command
      .add_option(
          "--retries", options.retry.retries,
          "Try so often again after UNAVAILABLE, or RESOURCE_EXHAUSTED with a time to come back")
      ->check(CLI::Range(0, 1000))
      ->type_name("N")
      ->capture_default_str()
      ->group("Connection");
}

absl::StatusOr<absl::Duration> ParseTimeout(const std::string& text) {
  double seconds = 0;
  absl::Duration timeout;
  if (absl::SimpleAtod(text, &seconds)) {
    timeout = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &timeout)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--timeout: \"", text, "\" is not a time such as 90, 1.5s, 10m"));
  }
  constexpr absl::Duration kMost = absl::Hours(24 * 365);
  if (timeout <= absl::ZeroDuration() || timeout > kMost || seconds != seconds) {
    return absl::InvalidArgumentError(
        absl::StrCat("--timeout: ", text, " is not above 0 and at most a year"));
  }
  return timeout;
}

absl::StatusOr<Connection> Connection::Open(const ConnectionOptions& options) {
  Connection connection;
  auto timeout = ParseTimeout(options.timeout);
  if (!timeout.ok()) return timeout.status();
  auto token = ReadOption("--token-file", options.token_file);
  if (!token.ok()) return token.status();
  auto credentials = Credentials(options);
  if (!credentials.ok()) return credentials.status();

  connection.timeout_ = *timeout;
  connection.retry_ = options.retry;
  connection.token_ = std::string(absl::StripAsciiWhitespace(*token));
  connection.traceparent_ = TraceparentOfEnvironment();
  connection.stub_ = v1::ImageGenerationService::NewStub(
      grpc::CreateCustomChannel(options.server, *credentials, Arguments(options)));
  return connection;
}

void Connection::Prepare(grpc::ClientContext& context, absl::Time deadline) const {
  context.set_deadline(absl::ToChronoTime(deadline));
  if (!token_.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", token_));
  if (!traceparent_.empty()) context.AddMetadata("traceparent", traceparent_);
}

}  // namespace patchflow

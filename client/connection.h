// The way to a server: address, TLS, token.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <CLI/App.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/retry.h"
#include "patchflow/v1/image_generation.grpc.pb.h"

namespace patchflow {

struct ConnectionOptions {
  std::string server = "127.0.0.1:50051";
  bool tls = false;    // With the system's authorities; implied by tls_ca and tls_cert.
  std::string tls_ca;  // PEM files.
  std::string tls_cert;
  std::string tls_key;
  std::string tls_server_name;  // Instead of the host's, to be found in the server's certificate.
  std::string token_file;
  std::string timeout;  // As Timeout() reads it.
  RetryOptions retry;
};

// The options of every subcommand. `timeout`: the default of --timeout, such as "10s".
void AddConnectionOptions(CLI::App& command, ConnectionOptions& options,
                          const std::string& timeout);

// "90" (seconds), "1.5s", "10m". INVALID_ARGUMENT unless it is above 0 and finite.
absl::StatusOr<absl::Duration> ParseTimeout(const std::string& text);

// A channel and what each call on it needs. Thread-safe.
class Connection {
 public:
  // Reads the files; connects with the first call. INVALID_ARGUMENT, naming the option, for files
  // that can't be read, a certificate without a key, and a token that would go out without TLS to
  // another machine.
  static absl::StatusOr<Connection> Open(const ConnectionOptions& options);

  v1::ImageGenerationService::Stub& stub() const { return *stub_; }
  absl::Duration timeout() const { return timeout_; }
  const RetryOptions& retry() const { return retry_; }
  // Sets deadline, token, and the trace that the environment's TRACEPARENT names (W3C trace
  // context), if there is one.
  void Prepare(grpc::ClientContext& context, absl::Time deadline) const;

 private:
  std::unique_ptr<v1::ImageGenerationService::Stub> stub_;
  absl::Duration timeout_;
  RetryOptions retry_;
  std::string token_;
  std::string traceparent_;
};

}  // namespace patchflow

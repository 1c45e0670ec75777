// A bound address and the gRPC services behind it.
#pragma once

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace patchflow {

struct ListenerOptions {
  const char* key = "";  // Of the configuration, for errors: "server.listen".
  std::string address;   // host:port, port 0 takes a free one; unix:PATH.
  std::shared_ptr<grpc::ServerCredentials> credentials;
  std::vector<grpc::Service*> services;  // Must outlive the listener.
  bool reflection = false;               // v1 and v1alpha, over these services.
  int64_t max_message_bytes = 64 << 10;
  // Of one connection: a client that knows this waits with the next, another one's connection is
  // closed. gRPC 1.51 has no bound on connections but the process' open files; what they hold
  // counts to max_memory_bytes.
  int max_streams = 100;
  // What gRPC itself holds for all connections: what was read and not yet taken, and every call's
  // state. Above it idle connections are closed first, then calls end with RESOURCE_EXHAUSTED.
  size_t max_memory_bytes = size_t{1} << 30;
  absl::Duration max_connection_age = absl::InfiniteDuration();
};

struct Listener {
  std::unique_ptr<grpc::Server> server;
  std::string address;  // With the port that was taken.

  // Ends what still runs after `grace`. Nothing if it never listened.
  void Stop(absl::Duration grace);
};

// UNAVAILABLE, naming key and address, if it cannot be bound, or is in use.
absl::StatusOr<Listener> Listen(const ListenerOptions& options);

}  // namespace patchflow

// A connection that can be cut.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace patchflow {

// A gRPC channel over one TCP or Unix connection of its own, without TLS. Cut() is what a machine
// that loses power or network does to a server: no RST_STREAM, no GOAWAY, the connection is gone.
// Thread-safe.
class CuttableChannel {
 public:
  // `address`: "HOST:PORT" or "unix:PATH". UNAVAILABLE if it can't be reached within `timeout`.
  static absl::StatusOr<std::unique_ptr<CuttableChannel>> Connect(const std::string& address,
                                                                  absl::Duration timeout);
  ~CuttableChannel();
  CuttableChannel(const CuttableChannel&) = delete;
  CuttableChannel& operator=(const CuttableChannel&) = delete;

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  void Cut();

 private:
  CuttableChannel(const std::string& address, int socket, int own);

  const int own_;  // A second descriptor of the channel's socket.
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace patchflow

#pragma once

#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>

#include "server/worker_client.h"

namespace patchflow {

// A worker over gRPC. `tcp`: for an address that is no unix socket; see TlsCredentials.
std::unique_ptr<WorkerClient> ConnectGrpcWorker(
    const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& tcp);

}  // namespace patchflow

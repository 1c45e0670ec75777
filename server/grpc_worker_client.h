#pragma once

#include <memory>
#include <string>

#include "server/worker_client.h"

namespace patchflow {

// A worker over gRPC, without TLS: unix sockets and trusted networks.
std::unique_ptr<WorkerClient> ConnectGrpcWorker(const std::string& address);

}  // namespace patchflow

// grpc.health.v1.Health: Check, and Watch with every change.
#pragma once

#include <grpcpp/server_context.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/guard.h"

namespace patchflow {

// "liveness" is SERVING until the server has given up. "readiness", "" and the name of our service
// are SERVING while a group of every model takes requests, the audit log can be written and the
// server is not draining.
// Thread-safe.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;

  // Callers must show what `guard` asks for; null: nothing. It must outlive this.
  explicit HealthService(const Guard* guard);

  void SetReady(bool ready);
  void SetLive(bool live);
  bool ready() const;
  bool live() const;
  // Ends every Watch, so that the server can shut down.
  void Shutdown();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;

  grpc::Status CheckCaller(const grpc::CallbackServerContext& context) const;
  Status StatusOf(const std::string& service) const;
  void Set(std::initializer_list<const char*> services, bool serving);

  const Guard* const guard_;
  mutable std::mutex mutex_;
  std::map<std::string, Status> statuses_;
  std::set<std::shared_ptr<Watcher>> watchers_;
  bool shut_down_ = false;
};

}  // namespace patchflow

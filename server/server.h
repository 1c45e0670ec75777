// The whole front end: every object, in order of dependency.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace grpc {
class Server;
}  // namespace grpc

namespace patchflow {

class Server {
 public:
  // Listens, answers health at once, and starts the workers. UNAVAILABLE if an address is in use;
  // NOT_FOUND if there is no worker program.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerConfig& config);
  // Ends whatever still runs, without waiting for it.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // With the ports that were taken. The second is empty without a metrics listener.
  const std::string& listen_address() const { return listen_address_; }
  const std::string& metrics_address() const { return metrics_address_; }

  // Waits until Stop() is called or a group is given up; true if the latter.
  bool WaitUntilDone();
  // Any thread; idempotent.
  void Stop();
  // Readiness off, the drain delay, new calls refused with DRAINING, running and queued ones
  // finished within the drain timeout, the rest ended with DRAINING.
  void Drain();

 private:
  struct Parts;

  explicit Server(const ServerConfig& config);
  void MakeModels();
  absl::Status Listen();
  absl::Status StartWorkers();
  void Tick();
  void UpdateHealth();
  void RefreshMetrics();
  bool Idle() const;
  void GiveUp(const std::string& why);

  const ServerConfig config_;
  std::string listen_address_;
  std::string metrics_address_;
  std::string socket_directory_;
  std::unique_ptr<Parts> parts_;
  std::atomic<bool> draining_ = false;
  std::atomic<bool> ticking_ = true;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  bool given_up_ = false;
};

}  // namespace patchflow

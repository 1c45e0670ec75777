// The whole front end: every object, in order of dependency.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "patchflow/admin/v1/admin.pb.h"
#include "server/audit.h"
#include "server/config.h"
#include "server/group.h"
#include "server/served_model.h"
#include "server/store.h"
#include "server/supervisor.h"
#include "server/trace_exporter.h"

namespace patchflow {

class Server {
 public:
  // Listens, answers health at once, and starts the workers. UNAVAILABLE if an address is in use or
  // a file cannot be opened; NOT_FOUND if there is no worker program, or no file of tokens;
  // INVALID_ARGUMENT if the files of security cannot be used.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerConfig& config);
  // Ends whatever still runs, without waiting for it.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // With the ports that were taken; empty where there is no such listener.
  const std::string& listen_address() const { return listen_address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  const std::string& health_address() const { return health_address_; }
  const std::string& admin_address() const { return admin_address_; }

  // Waits until Stop() is called or a group is given up; true if the latter.
  bool WaitUntilDone();
  // Any thread; idempotent.
  void Stop();
  // Readiness off, the drain delay, new calls refused with DRAINING, running and queued ones
  // finished within the drain timeout, the rest ended with DRAINING.
  void Drain();

 private:
  struct Parts;

  Server(const ServerConfig& config, std::unique_ptr<AuditLog> audit, std::unique_ptr<Store> store,
         TraceExporter::Send send_traces);
  void MakeModels();
  // `losses`, `faults`: of the group that it follows.
  std::unique_ptr<Group> MakeGroup(const GroupConfig& config, std::map<LossKind, int> losses = {},
                                   FaultCounts faults = {});
  ServedModel& ModelOf(const Group& group);
  // The program of local workers, and where their sockets and orders are.
  absl::Status FindWorkers(Supervisor::Options& options);
  void SetMakers(const Supervisor::Options& options);
  absl::Status Restore();
  absl::Status OpenSecurity();
  absl::Status OpenPublicListener();
  absl::Status OpenListeners();
  absl::Status StartWorkers();
  void Tick();
  void UpdateHealth();
  void RefreshMetrics();
  admin::v1::GetStatusResponse Status();
  admin::v1::ListWorkersResponse Workers();
  admin::v1::DrainResponse DrainForAdmin();
  absl::Status Resume();
  absl::StatusOr<admin::v1::ModelLoad> LoadModel(const std::string& model,
                                                 const std::string& folder);
  bool Idle() const;
  void GiveUp(const std::string& why);

  const ServerConfig config_;
  std::string listen_address_;
  std::string metrics_address_;
  std::string health_address_;
  std::string admin_address_;
  std::string socket_directory_;
  std::unique_ptr<Parts> parts_;
  const absl::Time started_ = absl::Now();
  std::atomic<bool> draining_ = false;  // For good.
  std::atomic<bool> drained_by_admin_ = false;
  std::atomic<bool> audit_behind_ = false;
  std::atomic<bool> ticking_ = true;
  std::atomic<bool> started_workers_ = false;
  std::atomic<int> sockets_ = 0;  // Of the groups so far.

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  bool given_up_ = false;
};

}  // namespace patchflow

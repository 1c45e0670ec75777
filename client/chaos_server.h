// A server started for `patchflow chaos`, followed by its log.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace patchflow {

// Thread-safe but for its making and end.
class ChaosServer {
 public:
  // Starts `program` with --config `config`. FAILED_PRECONDITION unless that configuration allows
  // chaos; UNAVAILABLE if it does not serve within `timeout`.
  static absl::StatusOr<std::unique_ptr<ChaosServer>> Start(const std::string& program,
                                                            const std::string& config,
                                                            absl::Duration timeout);
  // SIGTERM, SIGKILL after 10 s.
  ~ChaosServer();
  ChaosServer(const ChaosServer&) = delete;
  ChaosServer& operator=(const ChaosServer&) = delete;

  const std::string& address() const { return address_; }
  // Of its last worker; 0 before.
  pid_t worker_pid() const;

  // A line of its log, or of its worker's.
  struct Line {
    size_t number = 0;
    absl::Time time;
    nlohmann::json fields;
  };
  size_t num_lines() const;
  // The first line with this "msg" from number `from` on; waits for it.
  absl::StatusOr<Line> Await(const std::string& msg, size_t from, absl::Duration timeout) const;
  // Its workers' next order: see worker/fault_injection.h. UNAVAILABLE if it can't be written.
  absl::Status Order(const std::string& order) const;
  // Forgets an order that nobody obeyed; whether there was one.
  bool Withdraw() const;

 private:
  ChaosServer(pid_t pid, int log);
  void Follow();
  void Take(const std::string& line);

  const pid_t pid_;
  const int log_;
  std::string address_;
  std::string orders_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Line> lines_;
  std::string last_text_;  // That is no JSON: why it could not start.
  bool ended_ = false;     // No more lines will come.
  std::thread thread_;
};

}  // namespace patchflow

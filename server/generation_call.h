// What the calls that wait for a generation have in common: subscription, deadline, cancellation,
// figures.
#pragma once

#include <grpcpp/server_context.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "server/audit.h"
#include "server/generation.h"
#include "server/metrics.h"
#include "server/timer.h"

namespace patchflow {

// What calls need of the server. Outlives them.
struct CallServices {
  Timer& timer;
  Metrics& metrics;
  AuditLog& audit;
  absl::Duration slow_client_timeout;
};

// The deadline that the client set, if any, less the time that the reason needs to arrive: min(20
// ms, 5 %).
std::optional<Clock::time_point> DeadlineOf(const grpc::CallbackServerContext& context);

// A call has ended: its line in the audit log.
struct CallRecord {
  const char* method;
  std::string identity;
  std::string peer;
  std::string request_id;
  std::string model;
};
void Audit(AuditLog& audit, const CallRecord& call, const absl::Status& status,
           Clock::duration duration, size_t bytes);

// Thread-safe. Lives as long as someone holds it; its gRPC reactor lives until Done(), which it
// outlives.
class GenerationCall : public Generation::Subscriber,
                       public std::enable_shared_from_this<GenerationCall> {
 public:
  // Counts the call as begun.
  GenerationCall(const CallServices& services, const char* method, std::string peer);

  void OnChange() override { Pump(); }
  // The call waits for this generation, to which it is subscribed, until `deadline`, or for as long
  // as it holds it.
  void Attach(std::shared_ptr<Generation> generation, std::optional<Clock::time_point> deadline);
  // Ends the call with this status, as soon as no write is under way.
  void EndWith(const absl::Status& status);
  // The client went away.
  void ClientGone();
  // The reactor is gone. Counts the call, and writes it into the audit log.
  void Done();
  void SetModel(const std::string& model) { model_ = model; }
  // Before Attach(): for the audit log.
  void SetCaller(const std::string& identity, const std::string& request_id);
  const std::string& model() const { return model_; }
  Clock::time_point began() const { return began_; }

 protected:
  // Sends what is due, or ends the call. Calls the reactor without holding mutex_.
  virtual void Pump() = 0;

  // Under mutex_: notes how the call ends.
  void NoteEnd(const absl::Status& status) { outcome_ = status; }

  const CallServices services_;
  std::mutex mutex_;
  std::shared_ptr<Generation> generation_;
  std::optional<absl::Status> forced_end_;
  bool finished_ = false;  // Finish() was called, or is about to be.
  size_t bytes_sent_ = 0;

 private:
  void PastDeadline();
  // It holds the generation no longer: others may.
  void PastTimeout();
  void SetTimer(Clock::time_point when, void (GenerationCall::*then)());
  std::shared_ptr<Generation> generation();

  const char* const method_;
  const std::string peer_;
  const Clock::time_point began_ = Clock::now();
  std::string model_;
  std::string identity_;
  std::string request_id_;
  absl::Status outcome_;
  Timer::Id deadline_timer_ = 0;
};

}  // namespace patchflow

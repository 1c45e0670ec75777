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
#include "server/generation.h"
#include "server/metrics.h"
#include "server/timer.h"

namespace patchflow {

// What calls need of the server. Outlives them.
struct CallServices {
  Timer& timer;
  Metrics& metrics;
  absl::Duration slow_client_timeout;
};

// The deadline that the client set, if any, less the time that the reason needs to arrive: min(20
// ms, 5 %).
std::optional<Clock::time_point> DeadlineOf(const grpc::CallbackServerContext& context);

// Thread-safe. Lives as long as someone holds it; its gRPC reactor lives until Done(), which it
// outlives.
class GenerationCall : public Generation::Subscriber,
                       public std::enable_shared_from_this<GenerationCall> {
 public:
  GenerationCall(const CallServices& services, const char* method);

  void OnChange() override { Pump(); }
  // The call waits for this generation, to which it is subscribed, until `deadline`.
  void Attach(std::shared_ptr<Generation> generation, std::optional<Clock::time_point> deadline);
  // Ends the call with this status, as soon as no write is under way.
  void EndWith(const absl::Status& status);
  // The client went away.
  void ClientGone();
  // The reactor is gone. Counts the call.
  void Done();
  void SetModel(const std::string& model) { model_ = model; }

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

  const char* const method_;
  const Clock::time_point began_ = Clock::now();
  std::string model_;
  absl::Status outcome_;
  Timer::Id deadline_timer_ = 0;
};

}  // namespace patchflow

// Says why a worker that this server does not start is not there.
#pragma once

#include <string>

#include "server/clock.h"
#include "server/group.h"
#include "server/worker_client.h"

namespace patchflow {

// Of one worker that has not been heard of. Used by one thread.
class Unreached {
 public:
  // Asks the worker now and then, for 1 s at most, so that an address that nobody listens on, or a
  // certificate that is not accepted, is told: once in the log, and as the group's failure. Begins
  // 1 s after it was made.
  void Look(Group& group, WorkerClient& client, const std::string& address);

 private:
  Clock::time_point next_ = Clock::now() + std::chrono::seconds(1);
  std::string told_;
};

}  // namespace patchflow

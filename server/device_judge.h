// Tells a device that another start of its worker would not mend.
#pragma once

#include <optional>
#include <string>

#include "patchflow/worker/v1/worker.pb.h"
#include "server/worker_process.h"

namespace patchflow {

// Of one group; used by its supervisor's thread.
class DeviceJudge {
 public:
  // Told every end of a worker: that of its process (nothing: it had to be killed, or is one of
  // another host), what its last heartbeat said of a device (nothing: all is well), and how many
  // failures in a row there were before. Why its devices must not be used again, empty if they may:
  // a worker said that one is broken (Xid, uncorrectable ECC or NVLink error), or two in a row,
  // with no completed job in between, ended with the same sticky CUDA error.
  std::string Judge(const std::optional<ProcessEnd>& end,
                    const std::optional<worker::v1::DeviceFault>& told, int failures_before);

 private:
  int last_error_ = 0;
};

}  // namespace patchflow

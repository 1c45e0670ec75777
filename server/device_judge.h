// Tells a device that another start of its worker would not mend.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"
#include "server/worker_process.h"

namespace patchflow {

// Of one group; used by its supervisor's thread.
class DeviceJudge {
 public:
  // Told every end of a worker: that of its process (nothing: it had to be killed, or is one of
  // another host), what its last heartbeat said of a device (nothing: all is well), and how many
  // failures in a row there were before. Why its devices must not be used again, empty if they may:
  // a worker said that one is broken (Xid, uncorrectable ECC or NVLink error), or two in a row,
  // with no completed job in between, ended with the same sticky CUDA error, or kTimes within
  // kWindow, whatever they completed.
  std::string Judge(const std::optional<ProcessEnd>& end,
                    const std::optional<worker::v1::DeviceFault>& told, int failures_before,
                    Clock::time_point now = Clock::now());

  static constexpr int kTimes = 5;
  static constexpr absl::Duration kWindow = absl::Hours(1);

 private:
  int last_error_ = 0;
  std::deque<std::pair<int, Clock::time_point>> errors_;  // Of the window.
};

}  // namespace patchflow

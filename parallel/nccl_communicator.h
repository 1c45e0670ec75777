// The communicator behind NcclWorld::Split().
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/nccl_handle.h"
#include "parallel/nccl_watchdog.h"

namespace patchflow {

// `handle` holds a communicator that is ready, watched by `watchdog`. On the rank's thread.
std::unique_ptr<Communicator> MakeNcclCommunicator(std::shared_ptr<NcclWatchdog> watchdog,
                                                   std::shared_ptr<NcclHandle> handle);

}  // namespace patchflow

// Versions of what this worker runs with.
#pragma once

#include "patchflow/worker/v1/worker.pb.h"

namespace patchflow {

// Its own build, LibTorch as it was built with, CUDA and NCCL as they are loaded.
worker::v1::WorkerBuild WorkerBuildOf();

}  // namespace patchflow

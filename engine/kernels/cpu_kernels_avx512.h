#pragma once

#include "engine/kernels/cpu_kernels.h"

namespace patchflow {

extern const CpuKernels kAvx512Kernels;

}  // namespace patchflow

// Compiled for AVX2 and FMA.
#include "engine/kernels/cpu_kernels_avx2.h"

#include "engine/kernels/cpu_kernels_impl.h"

namespace patchflow {

const CpuKernels kAvx2Kernels = {"avx2", kPanel, kTileRows, Pack, Multiply, NormModulate, Softmax};

}  // namespace patchflow

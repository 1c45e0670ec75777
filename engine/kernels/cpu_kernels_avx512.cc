// Compiled for AVX-512.
#include "engine/kernels/cpu_kernels_avx512.h"

#include "engine/kernels/cpu_kernels_impl.h"

namespace patchflow {

const CpuKernels kAvx512Kernels = {"avx512", kPanel,       kTileRows, Pack,
                                   Multiply, NormModulate, Softmax};

}  // namespace patchflow

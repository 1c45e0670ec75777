#include "engine/kernels/cpu_kernels.h"

#ifdef PATCHFLOW_X86
#include "engine/kernels/cpu_kernels_avx2.h"
#include "engine/kernels/cpu_kernels_avx512.h"
#endif

namespace patchflow {

const CpuKernels* CpuKernelsFor([[maybe_unused]] std::string_view capability) {
#ifdef PATCHFLOW_X86
  if (capability == "AVX512") return &kAvx512Kernels;
  if (capability == "AVX2") return &kAvx2Kernels;
#endif
  return nullptr;
}

}  // namespace patchflow

#include "engine/kernels/gemm_fp8_sm90.cuh"

namespace patchflow::gemm_fp8_sm90 {

cudaError_t LaunchBiasResidual(const GemmFp8Args& args, cudaStream_t stream) {
  return Launch<BiasResidual>(args, stream);
}

}  // namespace patchflow::gemm_fp8_sm90

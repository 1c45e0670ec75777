#include "engine/kernels/gemm_fp8_sm90.cuh"

namespace patchflow::gemm_fp8_sm90 {

cudaError_t LaunchBias(const GemmFp8Args& args, cudaStream_t stream) {
  return Launch<Bias>(args, stream);
}

}  // namespace patchflow::gemm_fp8_sm90

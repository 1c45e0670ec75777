#include "engine/kernels/gemm_fp8_sm90.cuh"

namespace patchflow::gemm_fp8_sm90 {

cudaError_t LaunchBiasGelu(const GemmFp8Args& args, cudaStream_t stream) {
  return Launch<BiasGelu>(args, stream);
}

}  // namespace patchflow::gemm_fp8_sm90

#include "engine/kernels/gemm_fp8_sm90.cuh"

namespace patchflow::gemm_fp8_sm90 {

cudaError_t LaunchBiasGelu128x192(const GemmFp8Args& args, cudaStream_t stream) {
  return Launch128x192<BiasGelu>(args, stream);
}

}  // namespace patchflow::gemm_fp8_sm90

#include "engine/kernels/gemm_sm90.cuh"

namespace patchflow::gemm_sm90 {

cudaError_t LaunchBiasResidual(const GemmSm90Args& args, GemmTile tile, cudaStream_t stream) {
  return LaunchTile<BiasResidual>(args, tile, stream);
}

}  // namespace patchflow::gemm_sm90

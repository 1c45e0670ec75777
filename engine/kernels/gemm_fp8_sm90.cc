#include "engine/kernels/gemm_fp8_sm90.h"

namespace patchflow {
namespace gemm_fp8_sm90 {

// One file each: they take a minute to compile.
cudaError_t LaunchBias(const GemmFp8Args& args, cudaStream_t stream);
cudaError_t LaunchBiasGelu(const GemmFp8Args& args, cudaStream_t stream);
cudaError_t LaunchBiasResidual(const GemmFp8Args& args, cudaStream_t stream);

}  // namespace gemm_fp8_sm90

cudaError_t LaunchGemmFp8Sm90(const GemmFp8Args& args, GemmEpilogue epilogue, cudaStream_t stream) {
  if (args.rows < 1 || args.in < 16 || args.in % 16 != 0 || args.out < 8 || args.out % 8 != 0 ||
      args.x_scale == nullptr || args.weight_scale == nullptr) {
    return cudaErrorInvalidValue;
  }
  switch (epilogue) {
    case GemmEpilogue::kBias:
      return gemm_fp8_sm90::LaunchBias(args, stream);
    case GemmEpilogue::kBiasGelu:
      return gemm_fp8_sm90::LaunchBiasGelu(args, stream);
    case GemmEpilogue::kBiasResidual:
      break;
  }
  return gemm_fp8_sm90::LaunchBiasResidual(args, stream);
}

}  // namespace patchflow

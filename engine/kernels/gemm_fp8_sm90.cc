#include "engine/kernels/gemm_fp8_sm90.h"

namespace patchflow {
namespace gemm_fp8_sm90 {

// One file each: they take a minute to compile.
cudaError_t LaunchBias128x192(const GemmFp8Args& args, cudaStream_t stream);
cudaError_t LaunchBias128x128InTurns(const GemmFp8Args& args, cudaStream_t stream);
cudaError_t LaunchBiasGelu128x192(const GemmFp8Args& args, cudaStream_t stream);
cudaError_t LaunchBiasGelu128x128InTurns(const GemmFp8Args& args, cudaStream_t stream);
cudaError_t LaunchBiasResidual128x192(const GemmFp8Args& args, cudaStream_t stream);
cudaError_t LaunchBiasResidual128x128InTurns(const GemmFp8Args& args, cudaStream_t stream);

}  // namespace gemm_fp8_sm90

std::string_view NameOf(GemmFp8Tile tile) {
  return tile == GemmFp8Tile::k128x192 ? "fp8 128x192" : "fp8 128x128 in turns";
}

GemmFp8Tile ChooseGemmFp8Tile(int64_t /*rows*/, int64_t /*in*/, int64_t /*out*/,
                              GemmEpilogue /*epilogue*/) {
  return GemmFp8Tile::k128x128InTurns;
}

cudaError_t LaunchGemmFp8Sm90(const GemmFp8Args& args, GemmEpilogue epilogue, GemmFp8Tile tile,
                              cudaStream_t stream) {
  if (args.rows < 1 || args.in < 16 || args.in % 16 != 0 || args.out < 8 || args.out % 8 != 0 ||
      args.x_scale == nullptr || args.weight_scale == nullptr) {
    return cudaErrorInvalidValue;
  }
  const bool shared = tile == GemmFp8Tile::k128x192;
  switch (epilogue) {
    case GemmEpilogue::kBias:
      return shared ? gemm_fp8_sm90::LaunchBias128x192(args, stream)
                    : gemm_fp8_sm90::LaunchBias128x128InTurns(args, stream);
    case GemmEpilogue::kBiasGelu:
      return shared ? gemm_fp8_sm90::LaunchBiasGelu128x192(args, stream)
                    : gemm_fp8_sm90::LaunchBiasGelu128x128InTurns(args, stream);
    case GemmEpilogue::kBiasResidual:
      break;
  }
  return shared ? gemm_fp8_sm90::LaunchBiasResidual128x192(args, stream)
                : gemm_fp8_sm90::LaunchBiasResidual128x128InTurns(args, stream);
}

}  // namespace patchflow

#include "engine/kernels/gemm_sm90.h"

namespace patchflow {
namespace gemm_sm90 {

// One file each: they take minutes to compile.
cudaError_t LaunchBias(const GemmSm90Args& args, GemmTile tile, cudaStream_t stream);
cudaError_t LaunchBiasGelu(const GemmSm90Args& args, GemmTile tile, cudaStream_t stream);
cudaError_t LaunchBiasResidual(const GemmSm90Args& args, GemmTile tile, cudaStream_t stream);
cudaError_t LaunchOverlapped(const GemmSm90Args& args, GemmEpilogue epilogue, cudaStream_t stream);

}  // namespace gemm_sm90

std::string_view NameOf(GemmTile tile) {
  switch (tile) {
    case GemmTile::k128x192:
      return "128x192";
    case GemmTile::k256x128:
      return "256x128";
    case GemmTile::k128x256:
      return "128x256";
    case GemmTile::k64x192InTurns:
      return "64x192 in turns";
    case GemmTile::k128x192Overlapped:
      break;
  }
  return "128x192 overlapped";
}

std::optional<GemmTile> ChooseGemmTile(int64_t rows, [[maybe_unused]] int64_t in, int64_t out,
                                       [[maybe_unused]] GemmEpilogue epilogue) {
  if (rows < 1 || out < 1) {
    return std::nullopt;
  }
  return GemmTile::k128x192;
}

cudaError_t LaunchGemmSm90(const GemmSm90Args& args, GemmEpilogue epilogue, GemmTile tile,
                           cudaStream_t stream) {
  if (args.rows < 1 || args.in < 8 || args.in % 8 != 0 || args.out < 8 || args.out % 8 != 0) {
    return cudaErrorInvalidValue;
  }
  if (tile == GemmTile::k128x192Overlapped) {
    return args.in < kOverlappedLeastIn ? cudaErrorInvalidValue
                                        : gemm_sm90::LaunchOverlapped(args, epilogue, stream);
  }
  switch (epilogue) {
    case GemmEpilogue::kBias:
      return gemm_sm90::LaunchBias(args, tile, stream);
    case GemmEpilogue::kBiasGelu:
      return gemm_sm90::LaunchBiasGelu(args, tile, stream);
    case GemmEpilogue::kBiasResidual:
      break;
  }
  return gemm_sm90::LaunchBiasResidual(args, tile, stream);
}

}  // namespace patchflow

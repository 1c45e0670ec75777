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

namespace {

constexpr int64_t kMultiprocessors = 132;
// What an epilogue that nothing hides takes, as so many more of a product's inputs. Fitted to the
// products of PixArt-XL/2's block at 2048, 8192 and 32768 rows on an H200.
constexpr int64_t kEpilogueAsIn = 512;

int64_t Waves(int64_t rows, int64_t out, int64_t tile_columns) {
  const int64_t tiles = (rows + 127) / 128 * ((out + tile_columns - 1) / tile_columns);
  return (tiles + kMultiprocessors - 1) / kMultiprocessors;
}

}  // namespace

std::string_view NameOf(GemmFp8Tile tile) {
  return tile == GemmFp8Tile::k128x192 ? "fp8 128x192" : "fp8 128x128 in turns";
}

GemmFp8Tile ChooseGemmFp8Tile(int64_t rows, int64_t in, int64_t out) {
  const int64_t turns = Waves(rows, out, 128) * 128 * in;
  const int64_t shared = Waves(rows, out, 192) * 192 * (in + kEpilogueAsIn);
  return shared < turns ? GemmFp8Tile::k128x192 : GemmFp8Tile::k128x128InTurns;
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

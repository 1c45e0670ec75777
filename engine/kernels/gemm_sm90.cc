#include "engine/kernels/gemm_sm90.h"

#include <algorithm>
#include <iterator>

namespace patchflow {
namespace gemm_sm90 {

// One file each: they take minutes to compile.
cudaError_t LaunchBias(const GemmSm90Args& args, GemmTile tile, cudaStream_t stream);
cudaError_t LaunchBiasGelu(const GemmSm90Args& args, GemmTile tile, cudaStream_t stream);
cudaError_t LaunchBiasResidual(const GemmSm90Args& args, GemmTile tile, cudaStream_t stream);
cudaError_t LaunchOverlapped(const GemmSm90Args& args, GemmEpilogue epilogue, cudaStream_t stream);

}  // namespace gemm_sm90

namespace {

constexpr GemmTile k128x192 = GemmTile::k128x192;
constexpr GemmTile k128x144 = GemmTile::k128x144;
constexpr GemmTile kInTurns = GemmTile::k64x192InTurns;
constexpr GemmTile kOverlapped = GemmTile::k128x192Overlapped;

// Measured at 1024, 2048, 4096, 8192 and 32768 rows; each serves up to its geometric mean with the
// next.
constexpr int kMeasured = 5;
constexpr std::array<int64_t, kMeasured - 1> kMostRows = {1448, 2896, 5792, 16384};

struct FastestTiles {
  int64_t in;
  int64_t out;
  GemmEpilogue epilogue;
  std::array<GemmTile, kMeasured> by_rows;
};

// Of PixArt-XL/2's block, with what follows each product in the time. Which tile wins is mostly
// how full its last wave is on 132 multiprocessors.
constexpr std::array kFastest = {
    FastestTiles{
        1152, 3456, GemmEpilogue::kBias, {k128x144, k128x144, k128x144, kOverlapped, kOverlapped}},
    FastestTiles{1152,
                 1152,
                 GemmEpilogue::kBias,
                 {kOverlapped, kOverlapped, k128x144, kOverlapped, k128x192}},
    FastestTiles{1152,
                 1152,
                 GemmEpilogue::kBiasResidual,
                 {kOverlapped, k128x144, k128x144, kOverlapped, k128x192}},
    FastestTiles{1152,
                 4608,
                 GemmEpilogue::kBiasGelu,
                 {k128x144, kOverlapped, k128x192, kOverlapped, kOverlapped}},
    FastestTiles{4608,
                 1152,
                 GemmEpilogue::kBiasResidual,
                 {kInTurns, k128x144, k128x144, k128x192, kOverlapped}},
};

}  // namespace

std::string_view NameOf(GemmTile tile) {
  switch (tile) {
    case GemmTile::k128x192:
      return "128x192";
    case GemmTile::k128x144:
      return "128x144";
    case GemmTile::k64x192InTurns:
      return "64x192 in turns";
    case GemmTile::k128x192Overlapped:
      break;
  }
  return "128x192 overlapped";
}

bool Serves(GemmTile tile, GemmEpilogue epilogue, int64_t in) {
  switch (tile) {
    case GemmTile::k64x192InTurns:
      return epilogue == GemmEpilogue::kBiasResidual;
    case GemmTile::k128x192Overlapped:
      return in >= kOverlappedLeastIn;
    case GemmTile::k128x192:
    case GemmTile::k128x144:
      break;
  }
  return true;
}

std::optional<GemmTile> ChooseGemmTile(int64_t rows, int64_t in, int64_t out,
                                       GemmEpilogue epilogue) {
  if (rows < 1 || out < 1) {
    return std::nullopt;
  }
  const auto* found = std::find_if(kFastest.begin(), kFastest.end(), [&](const auto& product) {
    return product.in == in && product.out == out && product.epilogue == epilogue;
  });
  if (found == kFastest.end()) {
    return GemmTile::k128x192;
  }
  const auto* column = std::lower_bound(kMostRows.begin(), kMostRows.end(), rows);
  return found->by_rows[std::distance(kMostRows.begin(), column)];
}

cudaError_t LaunchGemmSm90(const GemmSm90Args& args, GemmEpilogue epilogue, GemmTile tile,
                           cudaStream_t stream) {
  if (args.rows < 1 || args.in < 8 || args.in % 8 != 0 || args.out < 8 || args.out % 8 != 0) {
    return cudaErrorInvalidValue;
  }
  if (!Serves(tile, epilogue, args.in)) {
    return cudaErrorInvalidValue;
  }
  if (tile == GemmTile::k128x192Overlapped) {
    return gemm_sm90::LaunchOverlapped(args, epilogue, stream);
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

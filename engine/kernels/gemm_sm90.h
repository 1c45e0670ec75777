// Matrix products for Hopper with what follows them fused into their epilogue.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace patchflow {

// y = x W^T, and then, in float32 before the one rounding:
enum class GemmEpilogue {
  kBias,          // + bias
  kBiasGelu,      // gelu(. + bias), tanh form
  kBiasResidual,  // residual + gate (. + bias)
};

// Rows x columns of a thread block's tile. Two warpgroups share one, or take turns on whole tiles
// (kBiasResidual alone), or share one while they finish the one before. The last is our own kernel,
// the others are CUTLASS's. 144 columns fill 132 multiprocessors where 192 leave a third of them
// idle: 2,048 rows of 1,152; 64 rows where inputs are long and rows few. Four thread blocks instead
// of two that share what they load were 17 % slower on an H200.
enum class GemmTile { k128x192, k128x144, k64x192InTurns, k128x192Overlapped };
inline constexpr int kOverlappedLeastIn = 1024;  // Of GemmSm90Args::in, for k128x192Overlapped.
inline constexpr std::array kGemmTiles = {GemmTile::k128x192, GemmTile::k128x144,
                                          GemmTile::k64x192InTurns, GemmTile::k128x192Overlapped};
// Whether LaunchGemmSm90() takes them together.
bool Serves(GemmTile tile, GemmEpilogue epilogue, int64_t in);
std::string_view NameOf(GemmTile tile);

// The tile that was fastest on an H200; pure. None for what is empty; for products that PixArt-XL/2
// has none of, 128x192, the best on the whole. Measured by `patchflow-bench gemm`:
// bench/results/gemm_h200.json.
std::optional<GemmTile> ChooseGemmTile(int64_t rows, int64_t in, int64_t out,
                                       GemmEpilogue epilogue);

// Device memory, aligned to 16 bytes; matrices dense and row-major, bfloat16 but for the gate.
struct GemmSm90Args {
  const void* x = nullptr;         // [rows, in]
  const void* weight = nullptr;    // [out, in]
  const void* bias = nullptr;      // [out]; none adds nothing.
  const float* gate = nullptr;     // [out], of kBiasResidual; none is 1.
  const void* residual = nullptr;  // [rows, out], of kBiasResidual; may be y.
  void* y = nullptr;               // [rows, out]
  int rows = 0;
  int in = 0;   // A multiple of 8.
  int out = 0;  // A multiple of 8.
};

// Enqueues the product on `stream`. Persistent thread blocks in pairs that share what they load; no
// workspace, so a CUDA graph may capture it. Accumulates in float32.
// Returns cudaErrorInvalidValue for operands out of the contract.
// Source: CUTLASS 3's warp-specialised kernels for Hopper.
cudaError_t LaunchGemmSm90(const GemmSm90Args& args, GemmEpilogue epilogue, GemmTile tile,
                           cudaStream_t stream);

}  // namespace patchflow

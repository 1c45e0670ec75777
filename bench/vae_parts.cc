#include "bench/vae_parts.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <functional>

#include "bench/timing.h"
#include "engine/vae/layers.h"
#include "engine/vae/row_ops.h"
#include "engine/vae/wide_head_attention.h"

namespace patchflow {
namespace {

constexpr Repeats kRepeats{.warm_up = 3, .measured = 15};
constexpr Repeats kOfAttention{.warm_up = 1, .measured = 3};
constexpr int64_t kGroups = 32;

double Ms(const std::function<void()>& run, Repeats repeats = kRepeats) {
  return TimeOf(at::kCUDA, run, repeats).median_ms;
}

struct Pass {
  int64_t width;
  int64_t in;
  int64_t out;
};

class Slab {
 public:
  Slab(const Pass& pass, int64_t h, at::TensorOptions options, int64_t workspace_bytes)
      : pass_(pass),
        conv_{Weight({pass.out, pass.in, 3, 3}, options), Floats({pass.out})},
        phases_{Weight({4 * pass.in, pass.in, 2, 2}, options), Floats({pass.in})},
        rows_(std::min(h, SlabRows(h, CostOf(conv_, pass.width, 2), workspace_bytes))),
        phase_rows_(SlabRows(h, CostOf(phases_, pass.width, 2), workspace_bytes)),
        window_hWI_(at::randn({std::max(rows_, phase_rows_) + 2, pass.width, pass.in}, options)) {}

  void Print() const {
    const Tensor window = Image(window_hWI_.narrow(0, 0, rows_ + 2));
    const Tensor x_hWI = window_hWI_.narrow(0, 0, rows_);
    const Tensor filled_hWI = at::empty_like(x_hWI);
    const Tensor from_hWO = conv_(window);
    const Tensor to_hWO = at::empty_like(from_hWO);
    GroupMoments moments = NoMoments(kGroups, at::kCUDA);
    moments.count = 1;
    const GroupNorm norm{Floats({pass_.in}), Floats({pass_.in}), kGroups};
    const double elements_in = static_cast<double>(x_hWI.numel());
    const double elements_out = static_cast<double>(from_hWO.numel());
    const double normalize =
        Ms([&] { NormalizeRows(norm, moments, Activation::kSilu, x_hWI, filled_hWI); });
    const double convolve = Ms([&] { conv_(window); });
    const auto store = [&](StoreMode mode) {
      return Ms([&] {
        GroupMoments here = NoMoments(kGroups, at::kCUDA);
        StoreRows({.from = from_hWO, .bias_C = conv_.bias_O, .to_hWC = to_hWO, .mode = mode},
                  &here);
      });
    };
    std::printf("| %5ld | %4ld | %4ld | %5ld | %6.0f | %6.0f | %6.0f | %6.0f | %6.0f | %6.0f |\n",
                pass_.width, pass_.in, pass_.out, rows_,
                TeraflopPerSecond(18 * elements_out * static_cast<double>(pass_.in), convolve),
                4 * elements_in / normalize / 1e6,
                4 * elements_out / store(StoreMode::kReplace) / 1e6,
                6 * elements_out / store(StoreMode::kAdd) / 1e6, PhaseRate(), PhaseStoreRate());
  }

 private:
  static Tensor Weight(at::IntArrayRef sizes, at::TensorOptions options) {
    return (at::randn(sizes, options) * 0.02).contiguous(at::MemoryFormat::ChannelsLast);
  }
  static Tensor Floats(at::IntArrayRef sizes) {
    return at::randn(sizes, at::TensorOptions(at::kFloat).device(at::kCUDA));
  }
  static Tensor Image(const Tensor& rows) { return rows.unsqueeze(0).permute({0, 3, 1, 2}); }

  double PhaseRate() const {
    const Tensor window = Image(window_hWI_.narrow(0, 0, phase_rows_ + 2));
    const double flop = 8.0 * static_cast<double>(phase_rows_ + 1) *
                        static_cast<double>(pass_.width + 1) *
                        static_cast<double>(4 * pass_.in * pass_.in);
    return TeraflopPerSecond(flop, Ms([&] { phases_(window); }));
  }
  double PhaseStoreRate() const {
    const Tensor from = phases_(Image(window_hWI_.narrow(0, 0, phase_rows_ + 2)));
    const Tensor to = at::empty({2 * phase_rows_, 2 * pass_.width, pass_.in}, from.options());
    const double ms = Ms([&] {
      GroupMoments here = NoMoments(kGroups, at::kCUDA);
      StoreRows(
          {.from = from, .bias_C = phases_.bias_O, .to_hWC = to, .order = PixelOrder::kPhases},
          &here);
    });
    return 4 * static_cast<double>(to.numel()) / ms / 1e6;
  }

  Pass pass_;
  Convolution conv_;
  PhaseConvolution phases_;
  int64_t rows_;
  int64_t phase_rows_;
  Tensor window_hWI_;
};

void PrintAttention(int64_t tokens, at::TensorOptions options) {
  constexpr int64_t kHead = 512;
  const Tensor q = at::randn({tokens, kHead}, options);
  const Tensor k = at::randn({tokens, kHead}, options);
  const Tensor v = at::randn({tokens, kHead}, options);
  const double flop = 4.0 * static_cast<double>(tokens) * static_cast<double>(tokens) * kHead;
  std::printf("\n| tokens | workspace MiB | ms | TFLOP/s |\n|---|---|---|---|\n");
  for (const int64_t mib : {16, 32, 64, 128, 256, 512, 1024, 2048}) {
    const auto attend = [&] {
      TiledAttention(q, k, v, {.workspace_bytes = mib << 20, .tile_done = {}});
    };
    const double ms = Ms(attend, kOfAttention);
    std::printf("| %ld | %ld | %.1f | %.0f |\n", tokens, mib, ms, TeraflopPerSecond(flop, ms));
    std::fflush(stdout);
  }
}

}  // namespace

void PrintVaeParts(int64_t size_px, at::ScalarType dtype, int64_t workspace_bytes) {
  const auto options = at::TensorOptions(dtype).device(at::kCUDA);
  std::printf("\nPasses over one slab at %ld px\n", size_px);
  std::printf(
      "| width | in | out | rows | conv TFLOP/s | norm GB/s | store GB/s | add GB/s | "
      "phases TFLOP/s | phase store GB/s |\n|---|---|---|---|---|---|---|---|---|---|\n");
  for (const Pass& pass :
       {Pass{size_px / 8, 512, 512}, Pass{size_px / 4, 512, 512}, Pass{size_px / 2, 512, 256},
        Pass{size_px / 2, 256, 256}, Pass{size_px, 256, 128}, Pass{size_px, 128, 128}}) {
    Slab(pass, pass.width, options, workspace_bytes).Print();
    std::fflush(stdout);
  }
  PrintAttention(size_px / 8 * (size_px / 8), options);
}

}  // namespace patchflow

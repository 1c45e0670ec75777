#include "engine/vae/layers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "engine/vae/row_window.h"

namespace patchflow {
namespace {

constexpr int64_t kHaloRows = 2;
constexpr int64_t kEdgeRows = 6;  // Both edges of the rows held here, and the same with their halo.

int64_t ElementBytes(const Tensor& t) { return static_cast<int64_t>(t.element_size()); }

Tensor RowsOf(const Tensor& map_hWC, RowRange rows) {
  return map_hWC.narrow(0, rows.begin, rows.size());
}

void Copy(const Tensor& x_hWC, const Tensor& out_hWC) { out_hWC.copy_(x_hWC); }

FillRows NormalizedSilu(const GroupNorm& norm, const GroupMoments& moments) {
  return [&norm, moments](const Tensor& x_hWC, const Tensor& out_hWC) {
    NormalizeRows(norm, moments, Activation::kSilu, x_hWC, out_hWC);
  };
}

// body(window of filled rows, the rows): slab after slab.
template <typename Body>
void SlideOver(const Tensor& x_hWC, FillRows fill, const SlabCost& cost, const DecodeRun& run,
               const Body& body) {
  const int64_t h = x_hWC.size(0);
  const int64_t slab_rows = SlabRows(h, cost, run.slab_bytes);
  RowWindow window(x_hWC, std::move(fill), run.ports.neighbours, slab_rows);
  for (const RowRange rows : Slabs(h, slab_rows)) {
    body(window.Next(rows), rows);
    run.tile_done();
  }
}

// Moments of the image over what `body` stored, which is told where to add them.
template <typename Body>
GroupMoments Merged(const DecodeRun& run, at::Device device, const Body& body) {
  GroupMoments moments = NoMoments(run.groups, device);
  body(&moments);
  return run.ports.moments.Merge(moments);
}

void Convolve(const Convolution& conv, FillRows fill, const Tensor& from_hWI, const Tensor& to_hWO,
              StoreMode mode, const DecodeRun& run, GroupMoments* moments) {
  SlideOver(from_hWI, std::move(fill), CostOf(conv, from_hWI.size(1), ElementBytes(from_hWI)), run,
            [&](const Tensor& window_1Ihw, RowRange rows) {
              StoreRows({.from = conv(window_1Ihw),
                         .bias_C = conv.bias_O,
                         .to_hWC = RowsOf(to_hWO, rows),
                         .mode = mode},
                        moments);
            });
}

// conv1 where there is a shortcut: the results of both take the place of x, row by row.
void ConvolveBesideShortcut(const Resnet& resnet, const FeatureMap& x, const Stage& stage,
                            const DecodeRun& run, GroupMoments* moments) {
  const Tensor inner_hWC = stage.Left(resnet.conv1.out());
  const Tensor shortcut_hWC = stage.Right(resnet.conv1.out());
  SlideOver(x.rows_hWC, NormalizedSilu(resnet.norm1, x.moments),
            CostWithShortcut(resnet, stage.pitch(), stage.width(), ElementBytes(x.rows_hWC)), run,
            [&](const Tensor& window_1Chw, RowRange rows) {
              const Tensor shortcut =
                  at::linear(RowsOf(x.rows_hWC, rows).contiguous(), resnet.shortcut->weight_OI);
              StoreRows({.from = resnet.conv1(window_1Chw),
                         .bias_C = resnet.conv1.bias_O,
                         .to_hWC = RowsOf(inner_hWC, rows)},
                        moments);
              StoreRows({.from = shortcut,
                         .bias_C = resnet.shortcut->bias_O,
                         .to_hWC = RowsOf(shortcut_hWC, rows)},
                        nullptr);
            });
}

}  // namespace

int64_t UpBlock::pitch() const {
  int64_t widest = 0;
  for (const Resnet& resnet : resnets) widest = std::max(widest, resnet.pitch());
  return widest;
}

FeatureMap RunConvolutionIn(const Convolution& conv, const Tensor& x_hWI, const Stage& stage,
                            const DecodeRun& run) {
  const Tensor to_hWO = stage.Right(conv.out());
  return {to_hWO, Merged(run, to_hWO.device(), [&](GroupMoments* moments) {
            Convolve(conv, Copy, x_hWI, to_hWO, StoreMode::kReplace, run, moments);
          })};
}

FeatureMap RunResnet(const Resnet& resnet, const FeatureMap& x, const Stage& stage,
                     const DecodeRun& run) {
  const Tensor inner_hWC = stage.Left(resnet.conv1.out());
  const Tensor out_hWC = stage.Right(resnet.conv1.out());  // Holds x or its shortcut already.
  const at::Device device = out_hWC.device();
  const GroupMoments inner = Merged(run, device, [&](GroupMoments* moments) {
    if (resnet.shortcut) {
      ConvolveBesideShortcut(resnet, x, stage, run, moments);
    } else {
      Convolve(resnet.conv1, NormalizedSilu(resnet.norm1, x.moments), x.rows_hWC, inner_hWC,
               StoreMode::kReplace, run, moments);
    }
  });
  return {out_hWC, Merged(run, device, [&](GroupMoments* moments) {
            Convolve(resnet.conv2, NormalizedSilu(resnet.norm2, inner), inner_hWC, out_hWC,
                     StoreMode::kAdd, run, moments);
          })};
}

FeatureMap RunAttention(const MiddleAttention& attention, const FeatureMap& x,
                        const DecodeRun& run) {
  const Tensor& x_hWC = x.rows_hWC;
  AttentionInput in;
  in.span = run.tokens;
  {
    const Tensor normalized_hWC = at::empty(x_hWC.sizes(), x_hWC.options());
    NormalizeRows(attention.norm, x.moments, Activation::kNone, x_hWC, normalized_hWC);
    const Tensor tokens_BSHD = normalized_hWC.view({1, run.tokens.size(), 1, x_hWC.size(2)});
    in.q_BSHD = attention.q(tokens_BSHD);
    in.k_BSHD = attention.k(tokens_BSHD);
    in.v_BSHD = attention.v(tokens_BSHD);
  }
  Tensor attended_hWC = run.ports.attention.Attend(in).view(x_hWC.sizes());
  in = {};
  attended_hWC = at::linear(attended_hWC, attention.out.weight_OI);
  run.tile_done();
  return {x_hWC, Merged(run, x_hWC.device(), [&](GroupMoments* moments) {
            StoreRows({.from = attended_hWC,
                       .bias_C = attention.out.bias_O,
                       .to_hWC = x_hWC,
                       .mode = StoreMode::kAdd},
                      moments);
          })};
}

FeatureMap RunUpsampler(const PhaseConvolution& conv, const FeatureMap& x, const Stage& to,
                        const DecodeRun& run) {
  const Tensor to_hWC = to.Right(conv.out());
  return {to_hWC, Merged(run, to_hWC.device(), [&](GroupMoments* moments) {
            SlideOver(x.rows_hWC, Copy, CostOf(conv, x.rows_hWC.size(1), ElementBytes(x.rows_hWC)),
                      run, [&](const Tensor& window_1Ihw, RowRange rows) {
                        StoreRows({.from = conv(window_1Ihw),
                                   .bias_C = conv.bias_O,
                                   .to_hWC = RowsOf(to_hWC, {2 * rows.begin, 2 * rows.end}),
                                   .order = PixelOrder::kPhases},
                                  moments);
                      });
          })};
}

void RunConvolutionOut(const GroupNorm& norm, const Convolution& conv, const FeatureMap& x,
                       const Tensor& pixels_hWO, const DecodeRun& run) {
  Convolve(conv, NormalizedSilu(norm, x.moments), x.rows_hWC, pixels_hWO, StoreMode::kReplace, run,
           nullptr);
}

SlabCost CostOf(const Convolution& conv, int64_t width, int64_t element_bytes) {
  const int64_t in = width * conv.in();
  const int64_t out = width * conv.weight_OI33.size(0);
  return {(in + out) * element_bytes, (kHaloRows + kEdgeRows) * in * element_bytes,
          std::max(in, out)};
}

SlabCost CostOf(const PhaseConvolution& conv, int64_t width, int64_t element_bytes) {
  const int64_t in = width * conv.in();
  const int64_t out = (width + 1) * conv.weight_PI22.size(0);
  return {(in + out) * element_bytes, ((kHaloRows + kEdgeRows) * in + out) * element_bytes,
          std::max(in, out)};
}

SlabCost CostWithShortcut(const Resnet& resnet, int64_t pitch, int64_t width,
                          int64_t element_bytes) {
  SlabCost cost = CostOf(resnet.conv1, width, element_bytes);
  const int64_t copied = pitch == resnet.conv1.in() ? 0 : resnet.conv1.in();
  cost.row_bytes += width * (resnet.conv1.out() + copied) * element_bytes;
  return cost;
}

}  // namespace patchflow

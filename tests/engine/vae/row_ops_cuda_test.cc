// The CUDA kernels of the decoder against the same operations on a CPU in float32.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/device.h"
#include "engine/vae/feature_map.h"
#include "engine/vae/row_ops.h"
#include "engine/vae/softmax_tile.h"
#include "engine/vae/wide_head_attention.h"
#include "tests/engine/golden.h"

namespace patchflow {
namespace {

const at::Device kGpu(at::kCUDA, 0);

// Of one rounding to the dtype, and of float32 sums in another order.
double ToleranceOf(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return 2e-3;
    case at::kBFloat16:
      return 1e-2;
    default:
      return 1e-5;
  }
}

struct MapShape {
  int64_t h;
  int64_t width;
  int64_t channels;
  int64_t groups;
  int64_t pitch;  // Of the stage that the map is in.
};

// Channels that vectors take and that they don't; rows that segments divide and don't; strides that
// are aligned and are not.
const std::vector<MapShape> kShapes = {
    {1, 1, 1, 1, 1},       {1, 1, 8, 4, 8},         {2, 3, 3, 3, 5},      {3, 33, 4, 2, 4},
    {5, 7, 24, 8, 48},     {2, 65, 128, 32, 256},   {7, 31, 96, 32, 200}, {3, 129, 512, 32, 1024},
    {1, 4097, 16, 16, 16}, {2, 17, 1024, 32, 2048}, {65, 5, 6, 3, 13},    {4, 1025, 128, 32, 128},
};

std::string NameOf(const MapShape& shape, at::ScalarType dtype) {
  return c10::str(shape.h, "x", shape.width, "x", shape.channels, " in ", shape.pitch, ", ",
                  c10::toString(dtype));
}

class RowKernelsTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  at::ScalarType dtype() const { return GetParam(); }
  double tolerance() const { return ToleranceOf(dtype()); }

  // Values that the dtype holds exactly, with a mean that is large beside their spread.
  Tensor Values(at::IntArrayRef sizes) const {
    return (at::randn(sizes) + 3).to(dtype()).to(at::kFloat);
  }
  // `values` at the right end of a stage on the GPU, as the decoder holds them.
  Tensor OnGpu(const Tensor& values_hWC, int64_t pitch) const {
    const int64_t h = values_hWC.size(0);
    const int64_t width = values_hWC.size(1);
    const Tensor storage = at::full({h * width * pitch}, std::numeric_limits<float>::quiet_NaN(),
                                    at::TensorOptions(dtype()).device(kGpu));
    const Tensor rows = Stage(storage, h, width, pitch).Right(values_hWC.size(2));
    rows.copy_(values_hWC.to(dtype()));
    return rows;
  }
  // Of pixels [N, C], in float64: a row of float32 sums loses a digit at 4097 pixels.
  static GroupMoments WideMoments(const Tensor& pixels_NC, int64_t groups) {
    const Tensor values = pixels_NC.to(at::kDouble)
                              .view({pixels_NC.size(0), groups, -1})
                              .permute({1, 0, 2})
                              .flatten(1);
    const Tensor mean = values.mean(1, true);
    return {static_cast<double>(values.size(1)), mean.view({1, groups}),
            (values - mean).square().sum(1).view({1, groups})};
  }
  static GroupMoments MomentsOf(const Tensor& values_hWC, int64_t groups) {
    GroupMoments moments = NoMoments(groups, at::kCPU);
    StoreRows({.from = values_hWC,
               .bias_C = at::zeros({values_hWC.size(2)}),
               .to_hWC = at::empty_like(values_hWC)},
              &moments);
    return moments;
  }
  static void ExpectMoments(const GroupMoments& found, const GroupMoments& expected,
                            const std::string& name) {
    EXPECT_EQ(found.count, expected.count) << name;
    EXPECT_LT(RelativeDifference(found.mean_BG.cpu(), expected.mean_BG), 1e-5) << name;
    const double spread = expected.m2_BG.abs().max().item<double>();
    if (spread > 0) {
      EXPECT_LT(RelativeDifference(found.m2_BG.cpu(), expected.m2_BG), 1e-4) << name;
    } else {
      EXPECT_EQ(found.m2_BG.abs().max().item<double>(), 0) << name;
    }
  }
  void ExpectStore(const MapShape& shape, PixelOrder order, StoreMode mode, int64_t extra) const;

  DeviceThread thread_{DeviceThread::MakeStream(kGpu)};
};
INSTANTIATE_TEST_SUITE_P(Dtypes, RowKernelsTest,
                         testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return c10::toString(info.param); });

TEST_P(RowKernelsTest, NormalizeAsTheCpuDoes) {
  at::manual_seed(1);
  for (const MapShape& shape : kShapes) {
    const Tensor x = Values({shape.h, shape.width, shape.channels});
    const GroupNorm norm{at::randn({shape.channels}), at::randn({shape.channels}), shape.groups};
    const GroupNorm norm_gpu{norm.gamma_C.to(kGpu), norm.beta_C.to(kGpu), shape.groups};
    GroupMoments moments = NoMoments(shape.groups, at::kCPU);
    moments.count = 7;
    moments.mean_BG = at::randn({1, shape.groups}) + 3;
    moments.m2_BG = at::rand({1, shape.groups}) * 7;
    const GroupMoments moments_gpu{7, moments.mean_BG.to(kGpu), moments.m2_BG.to(kGpu)};
    for (const Activation activation : {Activation::kNone, Activation::kSilu}) {
      const Tensor expected = at::empty_like(x);
      NormalizeRows(norm, moments, activation, x, expected);
      const Tensor found = at::empty(x.sizes(), at::TensorOptions(dtype()).device(kGpu));
      NormalizeRows(norm_gpu, moments_gpu, activation, OnGpu(x, shape.pitch), found);
      EXPECT_LT(RelativeDifference(found.cpu(), expected), tolerance()) << NameOf(shape, dtype());
    }
  }
}

void RowKernelsTest::ExpectStore(const MapShape& shape, PixelOrder order, StoreMode mode,
                                 int64_t extra) const {
  const bool phases = order == PixelOrder::kPhases;
  const int64_t h = phases ? 2 * shape.h : shape.h;
  const int64_t width = phases ? 2 * shape.width : shape.width;
  const Tensor from = phases ? Values({shape.h + 1, shape.width + 1, 4 * shape.channels})
                             : Values({h, width, shape.channels + extra});
  const Tensor held = Values({h, width, shape.channels});
  const Tensor bias = at::randn({shape.channels});
  const Tensor to_gpu = OnGpu(held, shape.pitch);
  const Tensor expected = held.clone();
  // Something was stored before.
  const Tensor earlier = Values({2, 3, shape.channels});
  const GroupMoments before = MomentsOf(earlier, shape.groups);
  GroupMoments moments_gpu{before.count, before.mean_BG.to(kGpu), before.m2_BG.to(kGpu)};
  StoreRows({from, bias, expected, order, mode}, nullptr);
  StoreRows({from.to(kGpu, dtype()), bias.to(kGpu), to_gpu, order, mode}, &moments_gpu);
  const std::string name = NameOf(shape, dtype());
  EXPECT_LT(RelativeDifference(to_gpu.cpu(), expected), tolerance()) << name;
  // Statistics are of what is held, rounded as it is.
  const Tensor stored = to_gpu.cpu().to(at::kFloat).contiguous();
  ExpectMoments(moments_gpu,
                WideMoments(at::cat({earlier.flatten(0, 1), stored.flatten(0, 1)}), shape.groups),
                name);

  const Tensor again = OnGpu(held, shape.pitch);
  StoreRows({from.to(kGpu, dtype()), bias.to(kGpu), again, order, mode}, nullptr);
  EXPECT_TRUE(at::equal(again, to_gpu)) << name;
}

TEST_P(RowKernelsTest, StoreAndMeasureAsTheCpuDoes) {
  at::manual_seed(2);
  for (const MapShape& shape : kShapes) {
    for (const StoreMode mode : {StoreMode::kReplace, StoreMode::kAdd}) {
      ExpectStore(shape, PixelOrder::kSame, mode, 0);
      ExpectStore(shape, PixelOrder::kSame, mode, 5);
      ExpectStore(shape, PixelOrder::kPhases, mode, 0);
    }
  }
}

// A mean of 1000 deviations: E[x^2] - E[x]^2 has no digit left in float32.
TEST_P(RowKernelsTest, MomentsDoNotCancel) {
  if (dtype() != at::kFloat) return;
  at::manual_seed(3);
  const Tensor x = at::randn({9, 77, 32}) + 1000;
  const GroupMoments expected = MomentsOf(x, 8);
  const auto wide = x.to(at::kDouble).view({9 * 77, 8, 4}).permute({1, 0, 2}).flatten(1);
  const Tensor m2 = (wide - wide.mean(1, true)).square().sum(1);
  GroupMoments found = NoMoments(8, kGpu);
  StoreRows({.from = x.to(kGpu), .bias_C = at::zeros({32}, kGpu), .to_hWC = OnGpu(x, 32)}, &found);
  EXPECT_LT(RelativeDifference(found.m2_BG[0].cpu(), m2), 1e-4);
  EXPECT_LT(RelativeDifference(expected.m2_BG[0], m2), 1e-4);
}

TEST_P(RowKernelsTest, TwoStoresGiveTheSameBits) {
  const Tensor x = Values({33, 257, 64}).to(kGpu, dtype());
  const auto measured = [&] {
    GroupMoments moments = NoMoments(32, kGpu);
    StoreRows({.from = x, .bias_C = at::zeros({64}, kGpu), .to_hWC = at::empty_like(x)}, &moments);
    return at::cat({moments.mean_BG, moments.m2_BG}).cpu();
  };
  EXPECT_TRUE(at::equal(measured(), measured()));
}

// Rows of an image of 8192 px: the last of them begin beyond 2^31 elements.
TEST_P(RowKernelsTest, ReachRowsBeyondTwoToTheThirtyOne) {
  if (dtype() != at::kBFloat16) return;
  constexpr int64_t kWidth = 8192;
  constexpr int64_t kChannels = 256;
  constexpr int64_t kRows = (int64_t{1} << 31) / (kWidth * kChannels) + 8;
  const Tensor storage =
      at::zeros({kRows * kWidth * kChannels}, at::TensorOptions(dtype()).device(kGpu));
  const Tensor map = Stage(storage, kRows, kWidth, kChannels).Right(kChannels);
  const Tensor last = map.narrow(0, kRows - 3, 3);
  const Tensor values = Values({3, kWidth, kChannels});
  const Tensor bias = at::zeros({kChannels});
  GroupMoments moments = NoMoments(32, kGpu);
  StoreRows({.from = values.to(kGpu, dtype()), .bias_C = bias.to(kGpu), .to_hWC = last}, &moments);
  ExpectMoments(moments, MomentsOf(values, 32), "last rows");
  EXPECT_TRUE(at::equal(last.cpu().to(at::kFloat), values));
  EXPECT_EQ(map.narrow(0, 0, 4).abs().max().item<float>(), 0);  // Not where an index wraps to.

  const GroupNorm norm{at::ones({kChannels}), at::zeros({kChannels}), 32};
  const GroupNorm norm_gpu{norm.gamma_C.to(kGpu), norm.beta_C.to(kGpu), 32};
  const Tensor expected = at::empty_like(values);
  NormalizeRows(norm, MomentsOf(values, 32), Activation::kSilu, values, expected);
  const Tensor found = at::empty(values.sizes(), last.options());
  NormalizeRows(norm_gpu, moments, Activation::kSilu, last, found);
  EXPECT_LT(RelativeDifference(found.cpu(), expected), tolerance());
}

// Few rows, far apart: a stride that does not fit into 32 bits.
TEST_P(RowKernelsTest, TakeStridesBeyondTwoToTheThirtyOne) {
  if (dtype() != at::kHalf) return;
  constexpr int64_t kStride = (int64_t{1} << 31) + 64;
  const Tensor storage = at::zeros({kStride + 64}, at::TensorOptions(dtype()).device(kGpu));
  const Tensor rows = storage.as_strided({2, 4, 16}, {kStride, 16, 1});
  const Tensor values = Values({2, 4, 16});
  StoreRows({.from = values.to(kGpu, dtype()), .bias_C = at::zeros({16}, kGpu), .to_hWC = rows},
            nullptr);
  EXPECT_TRUE(at::equal(rows.cpu().to(at::kFloat), values));
}

TEST_P(RowKernelsTest, SoftmaxOfTilesIsThatOfTheWhole) {
  at::manual_seed(4);
  constexpr double kScale = 0.3;
  for (const int64_t keys : {1, 5, 64, 1000, 8192}) {
    const Tensor scores = at::randn({37, 3 * keys}) * 8;
    const Tensor expected = at::softmax(scores.to(at::kDouble) * kScale, 1);
    SoftmaxState state(37, kGpu);
    state.Reset();
    Tensor sums = at::zeros({37, 3 * keys}, at::kDouble);
    for (int tile = 0; tile < 3; ++tile) {
      const Tensor part = scores.narrow(1, tile * keys, keys).contiguous().to(kGpu);
      const Tensor probabilities = at::empty({37, keys}, at::TensorOptions(dtype()).device(kGpu));
      SoftmaxOfTile(part, kScale, state, probabilities);
      sums.mul_(state.correction_S.cpu().to(at::kDouble).unsqueeze(1));
      sums.narrow(1, tile * keys, keys).copy_(probabilities.cpu());
    }
    sums.div_(state.sum_S.cpu().to(at::kDouble).unsqueeze(1));
    EXPECT_LT(RelativeDifference(sums, expected), tolerance()) << keys << " keys";
  }
}

TEST_P(RowKernelsTest, WideHeadsAttendAsTheCpuDoes) {
  at::manual_seed(5);
  for (const auto& [queries, keys] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {7, 33}, {300, 100}, {129, 20000}}) {
    const Tensor q = at::randn({1, queries, 1, 512}).to(dtype());
    const Tensor k = at::randn({1, keys, 1, 512}).to(dtype());
    const Tensor v = at::randn({1, keys, 1, 512}).to(dtype());
    const auto wide = [](const Tensor& x) { return x.to(at::kDouble).squeeze(2).squeeze(0); };
    const Tensor scores = at::matmul(wide(q), wide(k).t()) / std::sqrt(512.0);
    const Tensor expected = at::matmul(at::softmax(scores, 1), wide(v));
    for (const int64_t workspace_bytes : {int64_t{8} << 20, int64_t{512} << 20}) {
      const Tensor found = WideHeadAttention(q.to(kGpu), k.to(kGpu), v.to(kGpu),
                                             {.workspace_bytes = workspace_bytes, .tile_done = {}});
      // DeviceThread lets float32 products be computed in TF32.
      const double tolerance = std::max(2e-3, ToleranceOf(dtype()));
      EXPECT_LT(RelativeDifference(wide(found.cpu()), expected), tolerance)
          << queries << " queries, " << keys << " keys";
    }
  }
}

}  // namespace
}  // namespace patchflow

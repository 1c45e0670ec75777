#include "engine/attention.h"

#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "engine/attention_cpu.h"

namespace patchflow {
namespace {

struct Reference {
  Tensor o_BSHD;
  Tensor lse_BHS;
};

Reference InDouble(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias,
                   double scale) {
  const auto heads_first = [](const Tensor& x) { return x.transpose(1, 2).to(at::kDouble); };
  Tensor scores = at::matmul(heads_first(q), heads_first(k).transpose(-2, -1)) * scale;
  if (bias.defined()) {
    scores = scores + bias.to(at::kDouble);
  }
  const Tensor o = at::matmul(at::softmax(scores, -1), heads_first(v)).transpose(1, 2);
  return {o.to(at::kFloat), at::logsumexp(scores, {-1}).to(at::kFloat)};
}

double LargestDifference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

struct Sizes {
  int64_t batch, queries, keys, heads, head_size;
};

class AttentionOf : public testing::TestWithParam<Sizes> {
 protected:
  AttentionOf() { at::manual_seed(1); }
  Tensor Random(int64_t tokens) const {
    const Sizes s = GetParam();
    return at::randn({s.batch, tokens, s.heads, s.head_size});
  }
  double Scale() const { return 1.0 / std::sqrt(static_cast<double>(GetParam().head_size)); }
};

TEST_P(AttentionOf, EqualsSoftmaxInDouble) {
  const Tensor q = Random(GetParam().queries);
  const Tensor k = Random(GetParam().keys);
  const Tensor v = Random(GetParam().keys);
  const Tensor o = Sdpa(q, k, v);
  EXPECT_TRUE(o.is_contiguous());
  EXPECT_LT(LargestDifference(o, InDouble(q, k, v, {}, Scale()).o_BSHD), 2e-6);
}

TEST_P(AttentionOf, AddsTheBias) {
  const Sizes s = GetParam();
  const Tensor q = Random(s.queries);
  const Tensor k = Random(s.keys);
  const Tensor v = Random(s.keys);
  const Tensor bias = at::randn({s.batch, 1, 1, s.keys});
  const Tensor expected = InDouble(q, k, v, bias, 0.5).o_BSHD;
  EXPECT_LT(LargestDifference(Sdpa(q, k, v, bias, 0.5), expected), 1e-5);
  EXPECT_LT(LargestDifference(Sdpa(q, k, v, AlignBias(bias), 0.5), expected), 1e-5);
}

TEST_P(AttentionOf, ReturnsTheNaturalLogOfTheSumOfScaledScores) {
  const Tensor q = Random(GetParam().queries) * 3;
  const Tensor k = Random(GetParam().keys);
  const Tensor v = Random(GetParam().keys);
  const AttentionPart part = SdpaWithLse(q, k, v);
  const Reference expected = InDouble(q, k, v, {}, Scale());
  EXPECT_TRUE(part.o_BSHD.is_contiguous());
  EXPECT_EQ(part.lse_BHS.scalar_type(), at::kFloat);
  EXPECT_LT(LargestDifference(part.o_BSHD, expected.o_BSHD), 1e-5);
  EXPECT_LT(LargestDifference(part.lse_BHS, expected.lse_BHS), 1e-5);
}

// What ring attention does with it. Of a single key one part is empty.
TEST_P(AttentionOf, PartsOverDisjointKeysMergeToTheWhole) {
  const Sizes s = GetParam();
  const Tensor q = Random(s.queries);
  const Tensor k = Random(s.keys);
  const Tensor v = Random(s.keys);
  const int64_t half = s.keys / 2;
  const AttentionPart a = SdpaWithLse(q, k.narrow(1, 0, half), v.narrow(1, 0, half));
  const AttentionPart b =
      SdpaWithLse(q, k.narrow(1, half, s.keys - half), v.narrow(1, half, s.keys - half));
  const Tensor weight_BSH1 = at::sigmoid(a.lse_BHS - b.lse_BHS).transpose(1, 2).unsqueeze(-1);
  const Tensor merged = a.o_BSHD * weight_BSH1 + b.o_BSHD * (1 - weight_BSH1);
  EXPECT_LT(LargestDifference(merged, Sdpa(q, k, v)), 2e-6);
}

TEST_P(AttentionOf, TakesSlicesOfOneProduct) {
  const Sizes s = GetParam();
  const int64_t width = s.heads * s.head_size;
  const Tensor qkv = at::randn({s.batch, s.keys, 3 * width});
  std::vector<Tensor> parts;
  for (const Tensor& part : qkv.chunk(3, -1)) {
    parts.push_back(part.view({s.batch, s.keys, s.heads, s.head_size}));
  }
  const Tensor o = Sdpa(parts[0], parts[1], parts[2]);
  EXPECT_TRUE(o.is_contiguous());
  EXPECT_TRUE(
      at::equal(o, Sdpa(parts[0].contiguous(), parts[1].contiguous(), parts[2].contiguous())));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionOf,
                         testing::Values(Sizes{2, 64, 64, 4, 72}, Sizes{1, 7, 33, 3, 40},
                                         Sizes{2, 1, 19, 2, 8}, Sizes{3, 5, 1, 1, 24},
                                         Sizes{2, 130, 517, 5, 56}));

TEST(AttentionTest, ShardsWithoutHeadsGetNothing) {
  const Tensor q = at::empty({2, 5, 0, 8});
  const AttentionPart part = SdpaWithLse(q, q, q);
  EXPECT_EQ(part.o_BSHD.sizes(), (std::vector<int64_t>{2, 5, 0, 8}));
  EXPECT_EQ(part.lse_BHS.sizes(), (std::vector<int64_t>{2, 0, 5}));
}

TEST(AttentionTest, AlignedBiasHasAlignedRowsAndTheSameNumbers) {
  const Tensor bias = at::randn({2, 1, 1, 19});
  const Tensor aligned = AlignBias(bias);
  EXPECT_TRUE(at::equal(aligned, bias));
  EXPECT_EQ(aligned.stride(0) % 16, 0);
  EXPECT_EQ(AlignBias(aligned).data_ptr(), aligned.data_ptr());
}

TEST(AttentionTest, ChoosesTheKernelByShapeAlone) {
  const auto on_gpu = [](at::ScalarType dtype, int64_t keys, int64_t head_size, bool biased) {
    return ChooseAttentionKernel({at::kCUDA, dtype, 16, keys, head_size, biased});
  };
  EXPECT_EQ(ChooseAttentionKernel({at::kCPU, at::kFloat, 16, 16, 72, false}),
            AttentionKernel::kCpuFlash);
  EXPECT_EQ(on_gpu(at::kBFloat16, 16, 72, false), AttentionKernel::kCudnn);
  EXPECT_EQ(on_gpu(at::kHalf, 16, 128, false), AttentionKernel::kCudnn);
  EXPECT_EQ(on_gpu(at::kBFloat16, 16, 72, true), AttentionKernel::kMemoryEfficient);
  EXPECT_EQ(on_gpu(at::kBFloat16, 16, 512, false), AttentionKernel::kMemoryEfficient);
  EXPECT_EQ(on_gpu(at::kBFloat16, 1, 72, false), AttentionKernel::kMemoryEfficient);
  EXPECT_EQ(on_gpu(at::kFloat, 16, 72, false), AttentionKernel::kMemoryEfficient);
  EXPECT_EQ(on_gpu(at::kBFloat16, 16, 36, false), AttentionKernel::kMath);
  EXPECT_EQ(on_gpu(at::kFloat, 16, 36, false), AttentionKernel::kMemoryEfficient);
}

// Our own kernel: Hopper, bfloat16, heads of 72, a bias a key or none; any number of keys.
TEST(AttentionTest, ChoosesOurKernelWhereItServes) {
  const AttentionShape served{.device = at::kCUDA,
                              .dtype = at::kBFloat16,
                              .queries = 16,
                              .keys = 1,
                              .head_size = 72,
                              .hopper = true};
  EXPECT_EQ(ChooseAttentionKernel(served), AttentionKernel::kSm90);
  EXPECT_EQ(NameOf(AttentionKernel::kSm90), "sm90");
  AttentionShape shape = served;
  shape.biased = true;
  EXPECT_EQ(ChooseAttentionKernel(shape), AttentionKernel::kMemoryEfficient);
  shape.one_bias_a_key = true;
  EXPECT_EQ(ChooseAttentionKernel(shape), AttentionKernel::kSm90);
  shape = served;
  shape.dtype = at::kHalf;
  EXPECT_NE(ChooseAttentionKernel(shape), AttentionKernel::kSm90);
  shape = served;
  shape.head_size = 64;
  EXPECT_NE(ChooseAttentionKernel(shape), AttentionKernel::kSm90);
  shape = served;
  shape.hopper = false;
  EXPECT_NE(ChooseAttentionKernel(shape), AttentionKernel::kSm90);
}

TEST(AttentionTest, ChoosesOurKernelForCpusWhereItServes) {
  const AttentionShape served{
      .dtype = at::kFloat, .queries = 16, .keys = 16384, .head_size = 31, .cpu_kernels = true};
  EXPECT_EQ(ChooseAttentionKernel(served), AttentionKernel::kCpuTiles);
  EXPECT_EQ(NameOf(AttentionKernel::kCpuTiles), "cpu-tiles");
  AttentionShape shape = served;
  shape.biased = true;
  EXPECT_EQ(ChooseAttentionKernel(shape), AttentionKernel::kCpuFlash);
  shape = served;
  shape.keys += 1;
  EXPECT_EQ(ChooseAttentionKernel(shape), AttentionKernel::kCpuFlash);
  shape = served;
  shape.dtype = at::kDouble;
  EXPECT_EQ(ChooseAttentionKernel(shape), AttentionKernel::kCpuFlash);
}

TEST(AttentionTest, ShapesTellABiasOfKeysFromOthers) {
  const Tensor q = at::empty({2, 5, 3, 72});
  const Tensor k = at::empty({2, 19, 3, 72});
  const AttentionShape shape = AttentionShapeOf(q, k);
  EXPECT_EQ(shape.queries, 5);
  EXPECT_EQ(shape.keys, 19);
  EXPECT_EQ(shape.head_size, 72);
  EXPECT_FALSE(shape.biased);
  EXPECT_FALSE(shape.one_bias_a_key);
  EXPECT_FALSE(shape.hopper);
  const auto one_a_key = [&](const Tensor& bias) {
    const AttentionShape biased = AttentionShapeOf(q, k, bias);
    EXPECT_TRUE(biased.biased);
    return biased.one_bias_a_key;
  };
  EXPECT_TRUE(one_a_key(at::empty({2, 1, 1, 19})));
  EXPECT_TRUE(one_a_key(at::empty({1, 1, 1, 19})));
  EXPECT_TRUE(one_a_key(AlignBias(at::empty({2, 1, 1, 19}))));
  EXPECT_FALSE(one_a_key(at::empty({2, 1, 1, 38}).slice(3, 0, 38, 2)));
  EXPECT_FALSE(one_a_key(at::empty({2, 1, 1, 1})));
  EXPECT_FALSE(one_a_key(at::empty({2, 3, 1, 19})));
  EXPECT_FALSE(one_a_key(at::empty({2, 1, 5, 19})));
}

// What the methods that split the tokens over ranks rely on where they compare bits.
TEST(AttentionTest, OurKernelForCpusComputesAQueryAloneAsAmongOthers) {
  if (CpuKernelsHere() == nullptr) GTEST_SKIP() << at::get_cpu_capability();
  at::manual_seed(5);
  const Tensor qkv = at::randn({2, 150, 3, 3, 40});
  const Tensor q = qkv.select(2, 0);
  const Tensor k = qkv.select(2, 1);
  const Tensor v = qkv.select(2, 2);
  const AttentionPart all = AttendCpuTiles(*CpuKernelsHere(), q, k, v, 0.3, true);
  for (const int64_t first : {0, 13, 77, 149}) {
    const int64_t count = std::min<int64_t>(20, 150 - first);
    const AttentionPart part =
        AttendCpuTiles(*CpuKernelsHere(), q.narrow(1, first, count), k, v, 0.3, true);
    EXPECT_TRUE(at::equal(part.o_BSHD, all.o_BSHD.narrow(1, first, count)));
    EXPECT_TRUE(at::equal(part.lse_BHS, all.lse_BHS.narrow(2, first, count)));
  }
}

// With a bias the choice on CPUs is LibTorch's kernel, bit for bit.
TEST(AttentionTest, TakesTheKernelThatIsGiven) {
  at::manual_seed(4);
  const Tensor q = at::randn({2, 50, 3, 72});
  const Tensor k = at::randn({2, 77, 3, 72});
  const Tensor v = at::randn({2, 77, 3, 72});
  const Tensor bias = at::randn({2, 1, 1, 77});
  const auto flash = at::_scaled_dot_product_flash_attention_for_cpu(
      q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 0.0, false, bias,
      1.0 / std::sqrt(72.0));
  const Tensor expected = std::get<0>(flash).transpose(1, 2);
  EXPECT_TRUE(at::equal(Sdpa(q, k, v, bias), expected));
  EXPECT_TRUE(at::equal(SdpaBy(AttentionKernel::kCpuFlash, q, k, v, bias), expected));
  const Tensor by_math = SdpaBy(AttentionKernel::kMath, q, k, v, bias);
  EXPECT_FALSE(at::equal(by_math, expected));
  EXPECT_LT(LargestDifference(by_math, expected), 1e-5);
}

}  // namespace
}  // namespace patchflow

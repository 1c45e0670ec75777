#include "engine/kernels/attention_sm90.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>

namespace patchflow {
namespace {

using at::Tensor;

AttentionOperand OperandOf(const Tensor& x_BSHD) {
  return {x_BSHD.data_ptr(), x_BSHD.stride(0), x_BSHD.stride(1), x_BSHD.stride(2)};
}

struct Result {
  Tensor o_BSHD;
  Tensor lse_BHS;
};

AttentionSm90Args ArgsOf(const Tensor& q, const Tensor& k, const Tensor& v, double scale,
                         const Tensor& o, const Tensor& lse) {
  AttentionSm90Args args;
  args.q = OperandOf(q);
  args.k = OperandOf(k);
  args.v = OperandOf(v);
  args.o = o.data_ptr();
  args.lse = lse.data_ptr<float>();
  args.batch = static_cast<int>(q.size(0));
  args.heads = static_cast<int>(q.size(2));
  args.queries = static_cast<int>(q.size(1));
  args.keys = static_cast<int>(k.size(1));
  args.scale = static_cast<float>(scale);
  return args;
}

Result Attend(const Tensor& q, const Tensor& k, const Tensor& v, double scale,
              AttentionSm90Schedule schedule) {
  const float poison = std::numeric_limits<float>::quiet_NaN();
  Result result = {
      at::full({q.size(0), q.size(1), q.size(2), 72}, poison, q.options()),
      at::full({q.size(0), q.size(2), q.size(1)}, poison, q.options().dtype(at::kFloat))};
  const AttentionSm90Args args = ArgsOf(q, k, v, scale, result.o_BSHD, result.lse_BHS);
  EXPECT_EQ(LaunchAttentionSm90(args, schedule, at::cuda::getCurrentCUDAStream()), cudaSuccess);
  return result;
}

// In float64, from the same bfloat16 operands.
Result Reference(const Tensor& q, const Tensor& k, const Tensor& v, double scale,
                 const Tensor& bias = {}) {
  const auto heads_first = [](const Tensor& x) { return x.to(at::kDouble).permute({0, 2, 1, 3}); };
  Tensor scores = at::matmul(heads_first(q), heads_first(k).transpose(-1, -2)) * scale;
  if (bias.defined()) scores = scores + bias;
  return {at::matmul(at::softmax(scores, -1), heads_first(v)).permute({0, 2, 1, 3}),
          at::logsumexp(scores, {-1})};
}

double RelativeError(const Tensor& ours, const Tensor& reference) {
  return ((ours.to(at::kDouble) - reference).norm() / reference.norm()).item<double>();
}

Tensor Random(at::IntArrayRef sizes) {
  return at::randn(sizes, at::TensorOptions().device(at::kCUDA)).to(at::kBFloat16);
}

using Shape = std::tuple<int, int, int, int>;
class AttentionSm90Test
    : public ::testing::TestWithParam<std::tuple<Shape, AttentionSm90Schedule>> {
 protected:
  void SetUp() override { at::manual_seed(17); }
};

TEST_P(AttentionSm90Test, EqualsDoublePrecisionToTheRoundingOfItsOperands) {
  const auto [shape, schedule] = GetParam();
  const auto [batch, heads, queries, keys] = shape;
  const Tensor q = Random({batch, queries, heads, 72});
  const Tensor k = Random({batch, keys, heads, 72});
  const Tensor v = Random({batch, keys, heads, 72});
  const double scale = 1 / std::sqrt(72.0);
  const Result ours = Attend(q, k, v, scale, schedule);
  const Result reference = Reference(q, k, v, scale);
  EXPECT_LT(RelativeError(ours.o_BSHD, reference.o_BSHD), 6e-3);
  EXPECT_LT(RelativeError(ours.lse_BHS, reference.lse_BHS), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(
    AwkwardShapes, AttentionSm90Test,
    ::testing::Combine(::testing::Values(Shape(1, 1, 1, 1), Shape(1, 1, 64, 128),
                                         Shape(2, 3, 65, 129), Shape(1, 2, 192, 256),
                                         Shape(2, 16, 1000, 777), Shape(1, 16, 512, 4096),
                                         Shape(2, 16, 4096, 4096), Shape(1, 5, 333, 2500)),
                       ::testing::ValuesIn(kAttentionSm90Schedules)));

// Padding of the caption, as cross-attention has it.
class AttentionSm90BiasTest : public ::testing::TestWithParam<int> {};

TEST_P(AttentionSm90BiasTest, AddsWhatAKeyIsGiven) {
  at::manual_seed(29);
  const int keys = GetParam();
  const Tensor q = Random({2, 500, 3, 72});
  const Tensor k = Random({2, keys, 3, 72});
  const Tensor v = Random({2, keys, 3, 72});
  const Tensor padded = Random({2, keys + 5});
  const Tensor bias = padded.narrow(1, 0, keys);
  bias.narrow(1, keys / 2, keys - keys / 2).select(0, 1).fill_(-10000);
  const Tensor o = at::full_like(q, std::numeric_limits<float>::quiet_NaN());
  const Tensor lse = at::empty({2, 3, 500}, q.options().dtype(at::kFloat));
  AttentionSm90Args args = ArgsOf(q, k, v, 0.1178, o, lse);
  args.key_bias = bias.const_data_ptr();
  args.key_bias_stride = bias.stride(0);
  ASSERT_EQ(
      LaunchAttentionSm90(args, AttentionSm90Schedule::kTwo, at::cuda::getCurrentCUDAStream()),
      cudaSuccess);
  const Tensor added = bias.to(at::kDouble).unsqueeze(1).unsqueeze(1);
  const Result reference = Reference(q, k, v, 0.1178, added);
  EXPECT_LT(RelativeError(o, reference.o_BSHD), 6e-3);
  EXPECT_LT(RelativeError(lse, reference.lse_BHS), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Lengths, AttentionSm90BiasTest, ::testing::Values(2, 77, 120, 128, 300));

// A race would show as a difference: nothing else is random.
TEST(AttentionSm90Test, GivesTheSameBitsEveryTime) {
  at::manual_seed(23);
  const Tensor q = Random({2, 1500, 16, 72});
  const Tensor k = Random({2, 3000, 16, 72});
  const Tensor v = Random({2, 3000, 16, 72});
  for (const AttentionSm90Schedule schedule : kAttentionSm90Schedules) {
    const Result first = Attend(q, k, v, 0.1178, schedule);
    for (int i = 0; i < 20; ++i) {
      const Result again = Attend(q, k, v, 0.1178, schedule);
      ASSERT_TRUE(at::equal(again.o_BSHD, first.o_BSHD)) << NameOf(schedule);
      ASSERT_TRUE(at::equal(again.lse_BHS, first.lse_BHS)) << NameOf(schedule);
    }
  }
}

TEST(AttentionSm90Test, ReadsSlicesOfOneProduct) {
  at::manual_seed(3);
  const Tensor qkv = Random({2, 300, 3, 4, 72});
  const Tensor q = qkv.select(2, 0);
  const Tensor k = qkv.select(2, 1);
  const Tensor v = qkv.select(2, 2);
  const Result ours = Attend(q, k, v, 0.1, AttentionSm90Schedule::kThree);
  EXPECT_LT(RelativeError(ours.o_BSHD, Reference(q, k, v, 0.1).o_BSHD), 6e-3);
}

TEST(AttentionSm90Test, LargeScoresDoNotOverflow) {
  at::manual_seed(5);
  const Tensor q = Random({1, 130, 2, 72}) * 30;
  const Tensor k = Random({1, 300, 2, 72}) * 30;
  const Tensor v = Random({1, 300, 2, 72});
  const Result ours = Attend(q, k, v, 0.1178, AttentionSm90Schedule::kTwoPaired);
  EXPECT_TRUE(at::isfinite(ours.o_BSHD).all().item<bool>());
  EXPECT_LT(RelativeError(ours.o_BSHD, Reference(q, k, v, 0.1178).o_BSHD), 6e-3);
}

// On 132 multiprocessors, 16 heads: what was fastest on an H100, and partial waves.
TEST(AttentionSm90Test, ChoosesTheScheduleThatWasMeasuredFastest) {
  const auto choice = [](int batch, int queries, int keys) {
    AttentionSm90Args args;
    args.batch = batch;
    args.heads = 16;
    args.queries = queries;
    args.keys = keys;
    return NameOf(ChooseAttentionSm90Schedule(args, 132));
  };
  EXPECT_EQ(choice(2, 1024, 1024), "two paired");
  EXPECT_EQ(choice(2, 1024, 4096), "two paired");
  EXPECT_EQ(choice(2, 4096, 4096), "three");
  EXPECT_EQ(choice(2, 2048, 16384), "three");
  EXPECT_EQ(choice(2, 16384, 16384), "three");
  EXPECT_EQ(choice(1, 65536, 65536), "three");
  EXPECT_EQ(choice(2, 1024, 65536), "two paired");
  AttentionSm90Args biased;
  biased.batch = biased.heads = biased.queries = biased.keys = 4096;
  biased.key_bias = &biased;
  EXPECT_EQ(NameOf(ChooseAttentionSm90Schedule(biased, 132)), "two");
}

TEST(AttentionSm90Test, RefusesNoKeys) {
  AttentionSm90Args args;
  args.batch = args.heads = args.queries = 1;
  EXPECT_EQ(LaunchAttentionSm90(args, AttentionSm90Schedule::kTwo, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace patchflow

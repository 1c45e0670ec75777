#include "engine/kernels/attention_sm90.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

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
              const AttentionSm90Tiling& tiling) {
  const float poison = std::numeric_limits<float>::quiet_NaN();
  Result result = {
      at::full({q.size(0), q.size(1), q.size(2), 72}, poison, q.options()),
      at::full({q.size(0), q.size(2), q.size(1)}, poison, q.options().dtype(at::kFloat))};
  AttentionSm90Args args = ArgsOf(q, k, v, scale, result.o_BSHD, result.lse_BHS);
  const Tensor workspace = at::full({AttentionSm90WorkspaceFloats(args, tiling) + 1}, poison,
                                    q.options().dtype(at::kFloat));
  args.workspace = workspace.data_ptr<float>();
  EXPECT_EQ(LaunchAttentionSm90(args, tiling, at::cuda::getCurrentCUDAStream()), cudaSuccess);
  EXPECT_TRUE(workspace[-1].isnan().item<bool>()) << "wrote beyond its workspace";
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
  const Result ours = Attend(q, k, v, scale, {schedule});
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

INSTANTIATE_TEST_SUITE_P(
    FewKeys, AttentionSm90Test,
    ::testing::Combine(::testing::Values(Shape(1, 1, 1, 1), Shape(1, 1, 64, 128),
                                         Shape(2, 3, 65, 127), Shape(1, 2, 129, 64),
                                         Shape(2, 16, 1000, 120), Shape(2, 16, 4096, 120),
                                         Shape(1, 4, 16384, 77), Shape(9, 16, 333, 120),
                                         Shape(20, 16, 70, 9)),
                       ::testing::Values(AttentionSm90Schedule::kFewKeys)));

// Padding of the caption, as cross-attention has it.
using Padded = std::tuple<int, int, AttentionSm90Schedule>;  // Queries, keys.
class AttentionSm90BiasTest : public ::testing::TestWithParam<Padded> {};

TEST_P(AttentionSm90BiasTest, AddsWhatAKeyIsGiven) {
  at::manual_seed(29);
  const auto [queries, keys, schedule] = GetParam();
  const Tensor q = Random({2, queries, 3, 72});
  const Tensor k = Random({2, keys, 3, 72});
  const Tensor v = Random({2, keys, 3, 72});
  const Tensor padded = Random({2, keys + 5});
  const Tensor bias = padded.narrow(1, 0, keys);
  bias.narrow(1, keys / 2, keys - keys / 2).select(0, 1).fill_(-10000);
  const Tensor o = at::full_like(q, std::numeric_limits<float>::quiet_NaN());
  const Tensor lse = at::empty({2, 3, queries}, q.options().dtype(at::kFloat));
  AttentionSm90Args args = ArgsOf(q, k, v, 0.1178, o, lse);
  args.key_bias = bias.const_data_ptr();
  args.key_bias_stride = bias.stride(0);
  ASSERT_EQ(LaunchAttentionSm90(args, {schedule}, at::cuda::getCurrentCUDAStream()), cudaSuccess);
  const Tensor added = bias.to(at::kDouble).unsqueeze(1).unsqueeze(1);
  const Result reference = Reference(q, k, v, 0.1178, added);
  EXPECT_LT(RelativeError(o, reference.o_BSHD), 6e-3);
  EXPECT_LT(RelativeError(lse, reference.lse_BHS), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Lengths, AttentionSm90BiasTest,
                         ::testing::Combine(::testing::Values(500, 3000),
                                            ::testing::Values(2, 77, 120, 128, 300),
                                            ::testing::Values(AttentionSm90Schedule::kTwo)));
INSTANTIATE_TEST_SUITE_P(FewKeys, AttentionSm90BiasTest,
                         ::testing::Combine(::testing::Values(500, 3000, 20000),
                                            ::testing::Values(2, 77, 120, 128),
                                            ::testing::Values(AttentionSm90Schedule::kFewKeys)));

// A race would show as a difference: nothing else is random.
TEST(AttentionSm90Test, GivesTheSameBitsEveryTime) {
  at::manual_seed(23);
  const Tensor q = Random({2, 1500, 16, 72});
  const Tensor k = Random({2, 3000, 16, 72});
  const Tensor v = Random({2, 3000, 16, 72});
  std::vector<AttentionSm90Tiling> tilings = {{AttentionSm90Schedule::kThree, 2, 3}};
  for (const AttentionSm90Schedule schedule : kAttentionSm90Schedules)
    tilings.push_back({schedule});
  for (const AttentionSm90Tiling& tiling : tilings) {
    const Result first = Attend(q, k, v, 0.1178, tiling);
    for (int i = 0; i < 20; ++i) {
      const Result again = Attend(q, k, v, 0.1178, tiling);
      ASSERT_TRUE(at::equal(again.o_BSHD, first.o_BSHD)) << NameOf(tiling);
      ASSERT_TRUE(at::equal(again.lse_BHS, first.lse_BHS)) << NameOf(tiling);
    }
  }
}

TEST(AttentionSm90Test, RefusesMoreThanFewKeys) {
  const Tensor x = Random({1, 129, 1, 72});
  const Tensor lse = at::empty({1, 1, 129}, x.options().dtype(at::kFloat));
  const AttentionSm90Args args = ArgsOf(x, x, x, 0.1, at::empty_like(x), lse);
  EXPECT_EQ(LaunchAttentionSm90(args, {AttentionSm90Schedule::kFewKeys}, nullptr),
            cudaErrorInvalidValue);
}

TEST(AttentionSm90Test, ReadsSlicesOfOneProduct) {
  at::manual_seed(3);
  const Tensor qkv = Random({2, 300, 3, 4, 72});
  const Tensor q = qkv.select(2, 0);
  const Tensor k = qkv.select(2, 1);
  const Tensor v = qkv.select(2, 2);
  const Result ours = Attend(q, k, v, 0.1, {AttentionSm90Schedule::kThree});
  EXPECT_LT(RelativeError(ours.o_BSHD, Reference(q, k, v, 0.1).o_BSHD), 6e-3);
}

// The tilings that go over several tiles of keys.
std::vector<AttentionSm90Tiling> LongTilings() {
  std::vector<AttentionSm90Tiling> tilings = {{AttentionSm90Schedule::kThree, 1, 2}};
  for (const AttentionSm90Schedule schedule : kAttentionSm90Schedules) {
    tilings.push_back({schedule});
  }
  return tilings;
}

TEST(AttentionSm90Test, LargeScoresDoNotOverflow) {
  at::manual_seed(5);
  const Tensor q = Random({1, 130, 2, 72}) * 30;
  const Tensor k = Random({1, 300, 2, 72}) * 30;
  const Tensor v = Random({1, 300, 2, 72});
  for (const AttentionSm90Tiling& tiling : LongTilings()) {
    const Result ours = Attend(q, k, v, 0.1178, tiling);
    EXPECT_TRUE(at::isfinite(ours.o_BSHD).all().item<bool>()) << NameOf(tiling);
    EXPECT_LT(RelativeError(ours.o_BSHD, Reference(q, k, v, 0.1178).o_BSHD), 6e-3)
        << NameOf(tiling);
  }
}

// Keys that matter more the later they come: by powers of two that still fit in what is relative to
// the first tile, and by more, of one query alone.
TEST(AttentionSm90Test, MaximaMayGrowFromTileToTile) {
  for (const double most : {10.0, 60.0, 95.0, 105.0, 140.0, 2000.0}) {
    at::manual_seed(43);
    Tensor q = Random({1, 500, 2, 72});
    const Tensor k = Random({1, 1000, 2, 72}) * 0.1;
    const Tensor v = Random({1, 1000, 2, 72});
    q.select(3, 0).fill_(0);
    q.select(1, 377).select(2, 0).fill_(1);
    const Tensor growth = at::linspace(0, most * 0.6931, 1000, q.options());
    k.select(3, 0).copy_(growth.view({1, 1000, 1}));
    const Result reference = Reference(q, k, v, 1);
    for (const AttentionSm90Tiling& tiling : LongTilings()) {
      const Result ours = Attend(q, k, v, 1, tiling);
      EXPECT_LT(RelativeError(ours.o_BSHD, reference.o_BSHD), 6e-3) << NameOf(tiling) << most;
      EXPECT_LT(RelativeError(ours.lse_BHS, reference.lse_BHS), 1e-4) << NameOf(tiling) << most;
      const auto of_one = [](const Tensor& o_BSHD) { return o_BSHD.select(1, 377); };
      EXPECT_LT(RelativeError(of_one(ours.o_BSHD), of_one(reference.o_BSHD)), 1e-2)
          << NameOf(tiling) << most;
    }
  }
}

using Split = std::tuple<Shape, int, int>;  // Blocks, pieces.
class AttentionSm90SplitTest : public ::testing::TestWithParam<Split> {};

TEST_P(AttentionSm90SplitTest, EqualsDoublePrecisionToTheRoundingOfItsOperands) {
  at::manual_seed(31);
  const auto [shape, blocks, pieces] = GetParam();
  const auto [batch, heads, queries, keys] = shape;
  const Tensor q = Random({batch, queries, heads, 72});
  const Tensor k = Random({batch, keys, heads, 72});
  const Tensor v = Random({batch, keys, heads, 72});
  const Result ours = Attend(q, k, v, 0.1178, {AttentionSm90Schedule::kThree, blocks, pieces});
  const Result reference = Reference(q, k, v, 0.1178);
  EXPECT_LT(RelativeError(ours.o_BSHD, reference.o_BSHD), 6e-3);
  EXPECT_LT(RelativeError(ours.lse_BHS, reference.lse_BHS), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(
    AwkwardShapes, AttentionSm90SplitTest,
    ::testing::Values(Split({1, 1, 1, 256}, 1, 2), Split({2, 3, 65, 300}, 1, 3),
                      Split({1, 2, 193, 512}, 1, 4), Split({1, 2, 193, 513}, 2, 4),
                      Split({2, 16, 1000, 777}, 3, 2), Split({1, 5, 400, 2500}, 3, 3),
                      Split({2, 16, 4096, 4096}, 2, 3), Split({3, 4, 576, 1100}, 1, 4)));

// As images beside each other in a batch need it.
TEST(AttentionSm90Test, RowsOfABatchDoNotKnowWhichTheyAre) {
  at::manual_seed(37);
  const Tensor q = Random({3, 700, 4, 72});
  const Tensor k = Random({3, 900, 4, 72});
  const Tensor v = Random({3, 900, 4, 72});
  const auto turned = [](const Tensor& x) { return at::roll(x, 1, 0); };
  const AttentionSm90Tiling tiling = {AttentionSm90Schedule::kThree, 2, 3};
  const Result one = Attend(q, k, v, 0.1178, tiling);
  const Result other = Attend(turned(q), turned(k), turned(v), 0.1178, tiling);
  EXPECT_TRUE(at::equal(other.o_BSHD, turned(one.o_BSHD)));
  EXPECT_TRUE(at::equal(other.lse_BHS, turned(one.lse_BHS)));
}

std::string Choice(int batch, int queries, int keys) {
  AttentionSm90Args args;
  args.batch = batch;
  args.heads = 16;
  args.queries = queries;
  args.keys = keys;
  return NameOf(ChooseAttentionSm90Tiling(args, 132));
}

// On 132 multiprocessors, 16 heads.
TEST(AttentionSm90Test, ChoosesTheTilingThatEndsFirst) {
  EXPECT_EQ(Choice(2, 1024, 1024), "two paired");
  EXPECT_EQ(Choice(2, 4096, 4096), "three, 2 in 2");
  EXPECT_EQ(Choice(2, 4096, 16384), "three, 2 in 3");
  EXPECT_EQ(Choice(1, 65536, 65536), "three, 4 in 2");
  AttentionSm90Args biased;
  biased.batch = biased.heads = biased.queries = biased.keys = 4096;
  biased.key_bias = &biased;
  EXPECT_EQ(NameOf(ChooseAttentionSm90Tiling(biased, 132)), "two");
  biased.keys = 120;
  EXPECT_EQ(NameOf(ChooseAttentionSm90Tiling(biased, 132)), "few keys");
  EXPECT_EQ(Choice(2, 1024, 128), "few keys");
  EXPECT_EQ(Choice(2, 1024, 129), "two paired");
}

TEST(AttentionSm90Test, RefusesSplitsThatAreNoneOfItsOwn) {
  const Tensor x = Random({1, 200, 1, 72});
  const Tensor lse = at::empty({1, 1, 200}, x.options().dtype(at::kFloat));
  const Tensor workspace = at::empty({100000}, lse.options());
  AttentionSm90Args args = ArgsOf(x, x, x, 0.1, at::empty_like(x), lse);
  const auto refused = [&](const AttentionSm90Tiling& tiling) {
    return LaunchAttentionSm90(args, tiling, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_TRUE(refused({AttentionSm90Schedule::kThree, 1, 2})) << "no workspace";
  args.workspace = workspace.data_ptr<float>();
  EXPECT_TRUE(refused({AttentionSm90Schedule::kThree, 1, 3})) << "two tiles of keys";
  EXPECT_TRUE(refused({AttentionSm90Schedule::kThree, 3, 2})) << "two blocks of queries";
  EXPECT_TRUE(refused({AttentionSm90Schedule::kThree, 1, 1}));
  EXPECT_TRUE(refused({AttentionSm90Schedule::kTwoPaired, 1, 2}));
}

TEST(AttentionSm90Test, RefusesNoKeys) {
  AttentionSm90Args args;
  args.batch = args.heads = args.queries = 1;
  EXPECT_EQ(LaunchAttentionSm90(args, {AttentionSm90Schedule::kTwo}, nullptr),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace patchflow

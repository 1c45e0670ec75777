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

Result Attend(const Tensor& q, const Tensor& k, const Tensor& v, double scale) {
  const float poison = std::numeric_limits<float>::quiet_NaN();
  Result result = {
      at::full({q.size(0), q.size(1), q.size(2), 72}, poison, q.options()),
      at::full({q.size(0), q.size(2), q.size(1)}, poison, q.options().dtype(at::kFloat))};
  AttentionSm90Args args;
  args.q = OperandOf(q);
  args.k = OperandOf(k);
  args.v = OperandOf(v);
  args.o = result.o_BSHD.data_ptr();
  args.lse = result.lse_BHS.data_ptr<float>();
  args.batch = static_cast<int>(q.size(0));
  args.heads = static_cast<int>(q.size(2));
  args.queries = static_cast<int>(q.size(1));
  args.keys = static_cast<int>(k.size(1));
  args.scale = static_cast<float>(scale);
  EXPECT_EQ(LaunchAttentionSm90(args, at::cuda::getCurrentCUDAStream()), cudaSuccess);
  return result;
}

// In float64, from the same bfloat16 operands.
Result Reference(const Tensor& q, const Tensor& k, const Tensor& v, double scale) {
  const auto heads_first = [](const Tensor& x) { return x.to(at::kDouble).permute({0, 2, 1, 3}); };
  const Tensor scores = at::matmul(heads_first(q), heads_first(k).transpose(-1, -2)) * scale;
  return {at::matmul(at::softmax(scores, -1), heads_first(v)).permute({0, 2, 1, 3}),
          at::logsumexp(scores, {-1})};
}

double RelativeError(const Tensor& ours, const Tensor& reference) {
  return ((ours.to(at::kDouble) - reference).norm() / reference.norm()).item<double>();
}

Tensor Random(at::IntArrayRef sizes) {
  return at::randn(sizes, at::TensorOptions().device(at::kCUDA)).to(at::kBFloat16);
}

class AttentionSm90Test : public ::testing::TestWithParam<std::tuple<int, int, int, int>> {
 protected:
  void SetUp() override { at::manual_seed(17); }
};

TEST_P(AttentionSm90Test, EqualsDoublePrecisionToTheRoundingOfItsOperands) {
  const auto [batch, heads, queries, keys] = GetParam();
  const Tensor q = Random({batch, queries, heads, 72});
  const Tensor k = Random({batch, keys, heads, 72});
  const Tensor v = Random({batch, keys, heads, 72});
  const double scale = 1 / std::sqrt(72.0);
  const Result ours = Attend(q, k, v, scale);
  const Result reference = Reference(q, k, v, scale);
  EXPECT_LT(RelativeError(ours.o_BSHD, reference.o_BSHD), 6e-3);
  EXPECT_LT(RelativeError(ours.lse_BHS, reference.lse_BHS), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(
    AwkwardShapes, AttentionSm90Test,
    ::testing::Values(std::make_tuple(1, 1, 1, 1), std::make_tuple(1, 1, 64, 128),
                      std::make_tuple(2, 3, 65, 129), std::make_tuple(1, 2, 192, 256),
                      std::make_tuple(2, 16, 1000, 777), std::make_tuple(1, 16, 512, 4096),
                      std::make_tuple(2, 16, 4096, 4096), std::make_tuple(1, 5, 333, 2500)));

TEST(AttentionSm90Test, ReadsSlicesOfOneProduct) {
  at::manual_seed(3);
  const Tensor qkv = Random({2, 300, 3, 4, 72});
  const Tensor q = qkv.select(2, 0);
  const Tensor k = qkv.select(2, 1);
  const Tensor v = qkv.select(2, 2);
  const Result ours = Attend(q, k, v, 0.1);
  EXPECT_LT(RelativeError(ours.o_BSHD, Reference(q, k, v, 0.1).o_BSHD), 6e-3);
}

TEST(AttentionSm90Test, LargeScoresDoNotOverflow) {
  at::manual_seed(5);
  const Tensor q = Random({1, 130, 2, 72}) * 30;
  const Tensor k = Random({1, 300, 2, 72}) * 30;
  const Tensor v = Random({1, 300, 2, 72});
  const Result ours = Attend(q, k, v, 0.1178);
  EXPECT_TRUE(at::isfinite(ours.o_BSHD).all().item<bool>());
  EXPECT_LT(RelativeError(ours.o_BSHD, Reference(q, k, v, 0.1178).o_BSHD), 6e-3);
}

TEST(AttentionSm90Test, RefusesNoKeys) {
  AttentionSm90Args args;
  args.batch = args.heads = args.queries = 1;
  EXPECT_EQ(LaunchAttentionSm90(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace patchflow

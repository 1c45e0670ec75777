#include "engine/kernels/merge_attention.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <limits>
#include <tuple>
#include <vector>

namespace patchflow {
namespace {

using at::Tensor;

const auto kGpu = at::TensorOptions().device(at::kCUDA);
constexpr int kHeads = 3;

struct Parts {
  Parts(int count, int batch, int queries, int head_size, at::ScalarType dtype) {
    for (int i = 0; i < count; ++i) {
      o.push_back(at::randn({batch, queries, kHeads, head_size}, kGpu).to(dtype));
      lse.push_back(at::randn({batch, kHeads, queries}, kGpu) * 4);
    }
  }

  MergeAttentionArgs Args(const Tensor& out, const Tensor& out_lse) const {
    MergeAttentionArgs args;
    for (size_t i = 0; i < o.size(); ++i) {
      args.o[i] = o[i].const_data_ptr();
      args.lse[i] = lse[i].const_data_ptr<float>();
    }
    args.parts = static_cast<int>(o.size());
    args.float_parts = o[0].scalar_type() == at::kFloat;
    args.batch = static_cast<int>(o[0].size(0));
    args.queries = static_cast<int>(o[0].size(1));
    args.heads = kHeads;
    args.head_size = static_cast<int>(o[0].size(3));
    args.out = out.mutable_data_ptr();
    args.out_batch_stride = out.stride(0);
    args.out_lse = out_lse.mutable_data_ptr<float>();
    args.out_lse_head_stride = out_lse.stride(1);
    return args;
  }

  // float64.
  Tensor Weights() const { return at::softmax(at::stack(lse).to(at::kDouble), 0); }
  Tensor Reference() const {
    return (at::stack(o).to(at::kDouble) * Weights().transpose(2, 3).unsqueeze(4)).sum(0);
  }
  Tensor ReferenceLse() const { return at::logsumexp(at::stack(lse).to(at::kDouble), {0}); }

  std::vector<Tensor> o;
  std::vector<Tensor> lse;
};

double RelativeError(const Tensor& ours, const Tensor& reference) {
  return ((ours.to(at::kDouble) - reference).norm() / reference.norm()).item<double>();
}

Tensor Poisoned(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::full(sizes, std::numeric_limits<float>::quiet_NaN(), kGpu.dtype(dtype));
}

using Case = std::tuple<int, int, int, at::ScalarType>;  // Parts, queries, head size.
class MergeAttentionTest : public ::testing::TestWithParam<Case> {};

TEST_P(MergeAttentionTest, EqualsDoublePrecisionToOneRounding) {
  at::manual_seed(41);
  const auto [count, queries, head_size, dtype] = GetParam();
  const Parts parts(count, 2, queries, head_size, dtype);
  const Tensor out = Poisoned({2, queries, kHeads, head_size}, at::kBFloat16);
  const Tensor out_lse = Poisoned({2, kHeads, queries}, at::kFloat);
  ASSERT_EQ(LaunchMergeAttention(parts.Args(out, out_lse), at::cuda::getCurrentCUDAStream()),
            cudaSuccess);
  EXPECT_LT(RelativeError(out, parts.Reference()), 2.5e-3);
  EXPECT_LT(RelativeError(out_lse, parts.ReferenceLse()), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(AwkwardShapes, MergeAttentionTest,
                         ::testing::Combine(::testing::Values(1, 2, 3, kMergeAttentionMostParts),
                                            ::testing::Values(1, 65, 1000),
                                            ::testing::Values(8, 72),
                                            ::testing::Values(at::kBFloat16, at::kFloat)));

TEST(MergeAttentionTest, APartWithoutKeysCountsNothing) {
  at::manual_seed(43);
  Parts parts(3, 1, 50, 72, at::kBFloat16);
  parts.lse[0].fill_(-std::numeric_limits<float>::infinity());
  const Tensor out = Poisoned({1, 50, kHeads, 72}, at::kBFloat16);
  const Tensor out_lse = Poisoned({1, kHeads, 50}, at::kFloat);
  ASSERT_EQ(LaunchMergeAttention(parts.Args(out, out_lse), at::cuda::getCurrentCUDAStream()),
            cudaSuccess);
  EXPECT_LT(RelativeError(out, parts.Reference()), 2.5e-3);
}

TEST(MergeAttentionTest, WritesIntoTheEndOfLongerRows) {
  at::manual_seed(47);
  const Parts parts(2, 2, 30, 72, at::kFloat);
  const Tensor out = at::zeros({2, 100, kHeads, 72}, kGpu.dtype(at::kBFloat16));
  const Tensor out_lse = at::zeros({2, kHeads, 100}, kGpu.dtype(at::kFloat));
  MergeAttentionArgs args = parts.Args(out.narrow(1, 70, 30), out_lse.narrow(2, 70, 30));
  ASSERT_EQ(LaunchMergeAttention(args, at::cuda::getCurrentCUDAStream()), cudaSuccess);
  EXPECT_LT(RelativeError(out.narrow(1, 70, 30), parts.Reference()), 2.5e-3);
  EXPECT_LT(RelativeError(out_lse.narrow(2, 70, 30), parts.ReferenceLse()), 1e-5);
  EXPECT_EQ(out.narrow(1, 0, 70).count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(out_lse.narrow(2, 0, 70).count_nonzero().item<int64_t>(), 0);
}

TEST(MergeAttentionTest, RefusesWhatItCannotRead) {
  const Parts parts(2, 1, 4, 8, at::kFloat);
  const Tensor out = Poisoned({1, 4, kHeads, 8}, at::kBFloat16);
  const Tensor out_lse = Poisoned({1, kHeads, 4}, at::kFloat);
  MergeAttentionArgs args = parts.Args(out, out_lse);
  args.parts = kMergeAttentionMostParts + 1;
  EXPECT_EQ(LaunchMergeAttention(args, nullptr), cudaErrorInvalidValue);
  args.parts = 2;
  args.head_size = 12;
  EXPECT_EQ(LaunchMergeAttention(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace patchflow

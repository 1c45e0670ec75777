#include "engine/vae/softmax_tile.h"

#include <ATen/ATen.h>

#include <limits>

#include "engine/vae/row_ops.h"

#ifdef PATCHFLOW_CUDA
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "engine/vae/softmax_kernel.h"
#endif

namespace patchflow {
namespace {

#ifdef PATCHFLOW_CUDA
ProbabilityType TypeOf(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return ProbabilityType::kFloat;
    case at::kHalf:
      return ProbabilityType::kHalf;
    default:
      TORCH_CHECK(t.scalar_type() == at::kBFloat16, "probabilities of dtype ", t.scalar_type(),
                  ": float32, float16 or bfloat16 expected");
      return ProbabilityType::kBFloat16;
  }
}

void SoftmaxOnCuda(const Tensor& scores_ST, double scale, SoftmaxState& state,
                   const Tensor& probabilities_ST) {
  SoftmaxTileKernel kernel;
  kernel.scores = scores_ST.const_data_ptr<float>();
  kernel.probabilities = probabilities_ST.mutable_data_ptr();
  kernel.type = TypeOf(probabilities_ST);
  kernel.max = state.max_S.mutable_data_ptr<float>();
  kernel.sum = state.sum_S.mutable_data_ptr<float>();
  kernel.correction = state.correction_S.mutable_data_ptr<float>();
  kernel.rows = scores_ST.size(0);
  kernel.keys = scores_ST.size(1);
  kernel.scale = static_cast<float>(scale);
  C10_CUDA_CHECK(Launch(kernel, at::cuda::getCurrentCUDAStream()));
}
#endif

void SoftmaxOnCpu(const Tensor& scores_ST, double scale, SoftmaxState& state,
                  const Tensor& probabilities_ST) {
  Tensor scores = scores_ST;
  scores.mul_(scale);
  const Tensor largest_S = at::maximum(state.max_S, scores.amax({1}));
  state.correction_S.copy_((state.max_S - largest_S).exp_());
  state.max_S.copy_(largest_S);
  scores.sub_(largest_S.unsqueeze(1)).exp_();
  state.sum_S.mul_(state.correction_S).add_(scores.sum({1}));
  if (probabilities_ST.data_ptr() != scores.data_ptr()) probabilities_ST.copy_(scores);
}

}  // namespace

SoftmaxState::SoftmaxState(int64_t rows, at::Device device) {
  const auto options = at::TensorOptions(at::kFloat).device(device);
  max_S = at::empty({rows}, options);
  sum_S = at::empty({rows}, options);
  correction_S = at::empty({rows}, options);
}

SoftmaxState SoftmaxState::First(int64_t rows) const {
  SoftmaxState first;
  first.max_S = max_S.narrow(0, 0, rows);
  first.sum_S = sum_S.narrow(0, 0, rows);
  first.correction_S = correction_S.narrow(0, 0, rows);
  return first;
}

void SoftmaxState::Reset() {
  max_S.fill_(-std::numeric_limits<float>::infinity());
  sum_S.zero_();
}

void SoftmaxOfTile(const Tensor& scores_ST, double scale, SoftmaxState& state,
                   const Tensor& probabilities_ST) {
  TORCH_CHECK(scores_ST.is_contiguous() && probabilities_ST.is_contiguous() &&
                  scores_ST.sizes() == probabilities_ST.sizes(),
              "contiguous scores and probabilities of one shape expected, got ", scores_ST.sizes(),
              " and ", probabilities_ST.sizes());
  CheckIndexable(scores_ST, "scores");
#ifdef PATCHFLOW_CUDA
  if (scores_ST.is_cuda()) {
    SoftmaxOnCuda(scores_ST, scale, state, probabilities_ST);
    return;
  }
#endif
  SoftmaxOnCpu(scores_ST, scale, state, probabilities_ST);
}

}  // namespace patchflow

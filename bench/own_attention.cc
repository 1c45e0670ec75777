#include "bench/own_attention.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <cmath>

namespace patchflow {
namespace {

AttentionOperand OperandOf(const at::Tensor& x_BSHD) {
  return {x_BSHD.const_data_ptr(), x_BSHD.stride(0), x_BSHD.stride(1), x_BSHD.stride(2)};
}

AttentionSm90Args ArgsOf(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD,
                         const at::Tensor& key_bias) {
  AttentionSm90Args args;
  args.batch = static_cast<int>(q_BSHD.size(0));
  args.heads = static_cast<int>(q_BSHD.size(2));
  args.queries = static_cast<int>(q_BSHD.size(1));
  args.keys = static_cast<int>(k_BTHD.size(1));
  if (key_bias.defined()) {
    args.key_bias = key_bias.const_data_ptr();
    args.key_bias_stride = key_bias.stride(0);
  }
  return args;
}

}  // namespace

AttentionSm90Tiling ChosenTiling(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD,
                                 const at::Tensor& key_bias) {
  return ChooseAttentionSm90Tiling(ArgsOf(q_BSHD, k_BTHD, key_bias),
                                   at::cuda::getCurrentDeviceProperties()->multiProcessorCount);
}

at::Tensor OwnAttention(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD,
                        const at::Tensor& v_BTHD, const AttentionSm90Tiling& tiling,
                        const at::Tensor& key_bias) {
  const at::Tensor o_BSHD = at::empty(q_BSHD.sizes(), q_BSHD.options());
  AttentionSm90Args args = ArgsOf(q_BSHD, k_BTHD, key_bias);
  args.q = OperandOf(q_BSHD);
  args.k = OperandOf(k_BTHD);
  args.v = OperandOf(v_BTHD);
  args.o = o_BSHD.mutable_data_ptr();
  args.scale = 1.0F / std::sqrt(static_cast<float>(kAttentionSm90HeadSize));
  at::Tensor workspace;
  if (const int64_t floats = AttentionSm90WorkspaceFloats(args, tiling); floats > 0) {
    workspace = at::empty({floats}, q_BSHD.options().dtype(at::kFloat));
    args.workspace = workspace.mutable_data_ptr<float>();
  }
  C10_CUDA_CHECK(LaunchAttentionSm90(args, tiling, at::cuda::getCurrentCUDAStream()));
  return o_BSHD;
}

}  // namespace patchflow

#include "engine/attention_sm90.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <algorithm>
#include <cstdint>

#include "engine/kernels/attention_sm90.h"

namespace patchflow {
namespace {

constexpr int64_t kStrideGrain = 8;
constexpr uintptr_t kAlignmentBytes = 16;

// What the copy engine can address; a copy of what it can't.
Tensor Addressable(const Tensor& x_BSHD) {
  const auto outer = x_BSHD.strides().slice(0, 3);
  const bool strides =
      x_BSHD.stride(3) == 1 && std::all_of(outer.begin(), outer.end(), [](int64_t stride) {
        return stride > 0 && stride % kStrideGrain == 0;
      });
  const auto address = reinterpret_cast<uintptr_t>(x_BSHD.const_data_ptr());
  return strides && address % kAlignmentBytes == 0 ? x_BSHD
                                                   : x_BSHD.clone(at::MemoryFormat::Contiguous);
}

AttentionOperand OperandOf(const Tensor& x_BSHD) {
  return {x_BSHD.const_data_ptr(), x_BSHD.stride(0), x_BSHD.stride(1), x_BSHD.stride(2)};
}

}  // namespace

bool IsHopper(at::Device device) {
  return at::cuda::getDeviceProperties(device.index())->major == 9;
}

AttentionPart AttendSm90(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& v_BTHD,
                         const Tensor& key_bias, double scale, bool with_lse) {
  const Tensor q = Addressable(q_BSHD);
  const Tensor k = Addressable(k_BTHD);
  const Tensor v = Addressable(v_BTHD);
  AttentionPart part;
  part.o_BSHD = at::empty(q.sizes(), q.options());
  AttentionSm90Args args;
  args.q = OperandOf(q);
  args.k = OperandOf(k);
  args.v = OperandOf(v);
  args.o = part.o_BSHD.mutable_data_ptr();
  args.batch = static_cast<int>(q.size(0));
  args.heads = static_cast<int>(q.size(2));
  args.queries = static_cast<int>(q.size(1));
  args.keys = static_cast<int>(k.size(1));
  args.scale = static_cast<float>(scale);
  if (with_lse) {
    part.lse_BHS = at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(at::kFloat));
    args.lse = part.lse_BHS.mutable_data_ptr<float>();
  }
  if (key_bias.defined()) {
    args.key_bias = key_bias.const_data_ptr();
    args.key_bias_stride = key_bias.size(0) == 1 ? 0 : key_bias.stride(0);
  }
  const int multiprocessors = at::cuda::getCurrentDeviceProperties()->multiProcessorCount;
  const AttentionSm90Tiling tiling = ChooseAttentionSm90Tiling(args, multiprocessors);
  Tensor workspace;
  if (const int64_t floats = AttentionSm90WorkspaceFloats(args, tiling); floats > 0) {
    workspace = at::empty({floats}, q.options().dtype(at::kFloat));
    args.workspace = workspace.mutable_data_ptr<float>();
  }
  C10_CUDA_CHECK(LaunchAttentionSm90(args, tiling, at::cuda::getCurrentCUDAStream()));
  return part;
}

}  // namespace patchflow

// Scaled dot-product attention on one device, with the kernel chosen here and nowhere else.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "engine/ports.h"

namespace patchflow {

// T: keys, of which there may be more than queries.
struct AttentionShape {
  at::DeviceType device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  int64_t queries = 0;
  int64_t keys = 0;
  int64_t head_size = 0;
  bool biased = false;
  bool one_bias_a_key = false;  // The bias is [B, 1, 1, T] and dense in T.
  bool hopper = false;          // The GPU is of compute capability 9.0.
  bool cpu_kernels = false;     // The CPU has instructions that our kernels are compiled for.
};
AttentionShape AttentionShapeOf(const Tensor& q_BSHD, const Tensor& k_BTHD,
                                const Tensor& bias = {});

// kSm90 is our own kernel, for heads of 72 alone; kCpuTiles our own for CPUs.
enum class AttentionKernel { kCpuTiles, kCpuFlash, kSm90, kCudnn, kMemoryEfficient, kMath };

// The only dispatch there is; pure. kMath, which holds all scores in memory, is left for head sizes
// that no fused kernel takes. Without `hopper` and `cpu_kernels` what would run if there were none
// of ours.
AttentionKernel ChooseAttentionKernel(const AttentionShape& shape);
std::string_view NameOf(AttentionKernel kernel);

// softmax(scale q k^T + bias) v as o_BSHD, contiguous, in the dtype of q. Strides of the inputs are
// free but for D, which is dense.
//   bias:  undefined, or additive in the dtype of q and expandable to [B, H, S, T].
//   scale: 0 takes 1 / sqrt(D).
Tensor Sdpa(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& v_BTHD,
            const Tensor& bias = {}, double scale = 0);

// Sdpa by a kernel given, which must serve the shape: for comparing kernels.
Tensor SdpaBy(AttentionKernel kernel, const Tensor& q_BSHD, const Tensor& k_BTHD,
              const Tensor& v_BTHD, const Tensor& bias = {}, double scale = 0);

// The same numbers with rows at strides that the memory-efficient kernel can load; Sdpa copies a
// bias that has others. For a bias that serves many calls.
Tensor AlignBias(const Tensor& bias);

// Sdpa without bias, and the natural logarithm of the sum of exponentials of the scaled scores,
// float32: what ring attention merges by.
struct AttentionPart {
  Tensor o_BSHD;
  Tensor lse_BHS;
};
AttentionPart SdpaWithLse(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& v_BTHD);

}  // namespace patchflow

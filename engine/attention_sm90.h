// Attention by our kernel for Hopper, over tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/attention.h"

namespace patchflow {

// A GPU of compute capability 9.0.
bool IsHopper(at::Device device);

// As Sdpa and SdpaWithLse, for bfloat16 and heads of 72 on a Hopper GPU, on the thread's current
// stream.
//   key_bias: undefined, or bfloat16 [B or 1, 1, 1, T], dense in T, one finite number at least.
//   scale:    positive.
// Copies operands whose address or strides the copy engine can't take.
AttentionPart AttendSm90(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& v_BTHD,
                         const Tensor& key_bias, double scale, bool with_lse);

}  // namespace patchflow

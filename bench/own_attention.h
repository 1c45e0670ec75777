// Our attention kernel over tensors, with a tiling given; key_bias is undefined or [B, 1, 1, T].
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/kernels/attention_sm90.h"

namespace patchflow {

AttentionSm90Tiling ChosenTiling(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD,
                                 const at::Tensor& key_bias);
at::Tensor OwnAttention(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD,
                        const at::Tensor& v_BTHD, const AttentionSm90Tiling& tiling,
                        const at::Tensor& key_bias);

}  // namespace patchflow

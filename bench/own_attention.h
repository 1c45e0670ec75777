// Our attention kernel over tensors, with a schedule given; key_bias is undefined or [B, 1, 1, T].
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/kernels/attention_sm90.h"

namespace patchflow {

AttentionSm90Schedule ChosenSchedule(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD,
                                     const at::Tensor& key_bias);
at::Tensor OwnAttention(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD,
                        const at::Tensor& v_BTHD, AttentionSm90Schedule schedule,
                        const at::Tensor& key_bias);

}  // namespace patchflow

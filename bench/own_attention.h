// Our attention kernel over tensors, with a schedule given.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/kernels/attention_sm90.h"

namespace patchflow {

AttentionSm90Schedule ChosenSchedule(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD);
at::Tensor OwnAttention(const at::Tensor& q_BSHD, const at::Tensor& k_BTHD,
                        const at::Tensor& v_BTHD, AttentionSm90Schedule schedule);

}  // namespace patchflow

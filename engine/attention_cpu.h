// Attention by our kernels for CPUs, over tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/attention.h"
#include "engine/kernels/cpu_kernels.h"

namespace patchflow {

// For float32 on this processor; null if there are none.
const CpuKernels* CpuKernelsHere();

// As Sdpa and SdpaWithLse without bias, for float32 on the host: all scores of a few queries at
// once, which stay in the second-level cache up to kCpuTilesMostKeys keys. Besides results, one
// copy of k and v. A query's result does not depend on the other queries.
inline constexpr int64_t kCpuTilesMostKeys = 16384;
AttentionPart AttendCpuTiles(const CpuKernels& kernels, const Tensor& q_BSHD, const Tensor& k_BTHD,
                             const Tensor& v_BTHD, double scale, bool with_lse);

}  // namespace patchflow

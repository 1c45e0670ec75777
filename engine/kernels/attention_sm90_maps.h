// What the kernels of attention_sm90.h share on the host.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "engine/kernels/attention_sm90.h"

namespace patchflow::attention_sm90 {

// Boxes of `rows` tokens x `columns` (64 or 16) of one head of one batch row; coordinates column,
// token, head, batch row. Elements outside are zeros, and not written. In shared memory a box has
// rows of so many columns, swizzled over their whole length. False if the driver refuses.
bool DescribeHeads(const AttentionOperand& operand, int tokens, const AttentionSm90Args& args,
                   int rows, int columns, CUtensorMap* map);

// AttentionSm90Schedule::kFewKeys.
cudaError_t LaunchFewKeys(const AttentionSm90Args& args, cudaStream_t stream);

}  // namespace patchflow::attention_sm90

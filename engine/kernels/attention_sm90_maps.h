// What the kernels of attention_sm90.h share on the host.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "engine/kernels/attention_sm90.h"

namespace patchflow::attention_sm90 {

inline constexpr int kWideColumns = 64;
inline constexpr int kRestColumns = 16;

// Boxes of `rows` tokens x `columns` (those two) of one head of one batch row; coordinates column,
// token, head, batch row. Elements outside are zeros, and not written. In shared memory a box has
// rows of so many columns, swizzled over their whole length. False if the driver refuses.
bool DescribeHeads(const AttentionOperand& operand, int tokens, const AttentionSm90Args& args,
                   int rows, int columns, CUtensorMap* map);

// What every schedule loads: the 64 columns of a head that have rows of 128 bytes, and the rest.
struct InputMaps {
  CUtensorMap q_wide;
  CUtensorMap q_rest;
  CUtensorMap k_wide;
  CUtensorMap k_rest;
  CUtensorMap v;  // Both its parts have rows of 128 bytes.
};
// In boxes of so many queries, and of so many keys.
bool DescribeInputs(const AttentionSm90Args& args, int query_rows, int key_rows, InputMaps* maps);

// AttentionSm90Schedule::kFewKeys.
cudaError_t LaunchFewKeys(const AttentionSm90Args& args, cudaStream_t stream);

}  // namespace patchflow::attention_sm90

#include "engine/kernels/attention_sm90_maps.h"

#include <array>

#include "engine/kernels/tensor_map.h"

namespace patchflow::attention_sm90 {

bool DescribeHeads(const AttentionOperand& operand, int tokens, const AttentionSm90Args& args,
                   int rows, int columns, CUtensorMap* map) {
  const EncodeTensorMap encode = FindEncodeTensorMap();
  const std::array<cuuint64_t, 4> extent = {kAttentionSm90HeadSize, static_cast<cuuint64_t>(tokens),
                                            static_cast<cuuint64_t>(args.heads),
                                            static_cast<cuuint64_t>(args.batch)};
  const std::array<cuuint64_t, 3> pitch_bytes = {static_cast<cuuint64_t>(operand.token_stride) * 2,
                                                 static_cast<cuuint64_t>(operand.head_stride) * 2,
                                                 static_cast<cuuint64_t>(operand.batch_stride) * 2};
  const std::array<cuuint32_t, 4> box = {static_cast<cuuint32_t>(columns),
                                         static_cast<cuuint32_t>(rows), 1, 1};
  const std::array<cuuint32_t, 4> step = {1, 1, 1, 1};
  return encode != nullptr &&
         encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(operand.data),
                extent.data(), pitch_bytes.data(), box.data(), step.data(),
                CU_TENSOR_MAP_INTERLEAVE_NONE,
                columns == kWideColumns ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_32B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool DescribeInputs(const AttentionSm90Args& args, int query_rows, int key_rows, InputMaps* maps) {
  return DescribeHeads(args.q, args.queries, args, query_rows, kWideColumns, &maps->q_wide) &&
         DescribeHeads(args.q, args.queries, args, query_rows, kRestColumns, &maps->q_rest) &&
         DescribeHeads(args.k, args.keys, args, key_rows, kWideColumns, &maps->k_wide) &&
         DescribeHeads(args.k, args.keys, args, key_rows, kRestColumns, &maps->k_rest) &&
         DescribeHeads(args.v, args.keys, args, key_rows, kWideColumns, &maps->v);
}

}  // namespace patchflow::attention_sm90

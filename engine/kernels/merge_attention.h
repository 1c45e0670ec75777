// Attention over parts of the keys, put together.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace patchflow {

inline constexpr int kMergeAttentionMostParts = 16;

// Device memory, aligned to 16 bytes.
struct MergeAttentionArgs {
  // Each dense, [batch, queries, heads, head_size] and float32 [batch, heads, queries]: the output
  // over a part of the keys, and the natural logarithm of its sum of exponentials.
  const void* o[kMergeAttentionMostParts] = {};
  const float* lse[kMergeAttentionMostParts] = {};
  int parts = 0;             // 1 .. kMergeAttentionMostParts.
  bool float_parts = false;  // Their o is float32, else bfloat16.
  int batch = 0;
  int queries = 0;
  int heads = 0;
  int head_size = 0;                // A multiple of 8.
  void* out = nullptr;              // bfloat16 [batch, queries, heads, head_size], dense but for
  int64_t out_batch_stride = 0;     // its rows of the batch, so many elements apart.
  float* out_lse = nullptr;         // [batch, heads, queries], or none; dense but for
  int64_t out_lse_head_stride = 0;  // its heads, so many elements apart.
};

// Enqueues out = sum of o weighted by exp(lse), float32 until the one rounding, and its own
// logarithm. A part of no keys has -infinity; one of all parts must have keys. Returns
// cudaErrorInvalidValue for operands out of the contract. Cost: every number read and written once.
// Source: Ring Attention (arXiv 2310.01889), section 3, with all parts at hand.
cudaError_t LaunchMergeAttention(const MergeAttentionArgs& args, cudaStream_t stream);

}  // namespace patchflow

// Attention for Hopper with a head size of 72, which stock kernels pad to 96 or 128: scores over 80
// columns (72 and a zero-filled rest), values over exactly 72.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace patchflow {

inline constexpr int kAttentionSm90HeadSize = 72;

// A bfloat16 matrix [batch, tokens, heads, 72] in device memory; strides in elements, multiples of
// 8; the base is aligned to 16 bytes; the last dim is dense.
struct AttentionOperand {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
};

struct AttentionSm90Args {
  AttentionOperand q;
  AttentionOperand k;
  AttentionOperand v;
  void* o = nullptr;     // bfloat16 [batch, queries, heads, 72], contiguous.
  float* lse = nullptr;  // [batch, heads, queries], natural logarithm, scaled scores; or none.
  int batch = 0;
  int heads = 0;
  int queries = 0;
  int keys = 0;  // At least 1; need not equal queries.
  float scale = 0;
  // bfloat16 [batch, keys], rows so many elements apart: added to the scaled scores of every query;
  // or none. A query needs one key with a finite bias. Served by kTwo and kFewKeys.
  const void* key_bias = nullptr;
  int64_t key_bias_stride = 0;
  // AttentionSm90WorkspaceFloats() numbers, aligned to 16 bytes; or none where that is 0.
  float* workspace = nullptr;
};

// Warpgroups of 64 queries that share a thread block. Paired: two thread blocks of one head load
// keys and values for each other. kFewKeys: a thread block holds all keys, at most
// kAttentionSm90FewKeys, and goes through queries.
enum class AttentionSm90Schedule { kTwo, kTwoPaired, kThree, kFewKeys };
inline constexpr int kAttentionSm90FewKeys = 128;
// Those for any number of keys.
inline constexpr std::array kAttentionSm90Schedules = {
    AttentionSm90Schedule::kTwo, AttentionSm90Schedule::kTwoPaired, AttentionSm90Schedule::kThree};
std::string_view NameOf(AttentionSm90Schedule schedule);

// How the work is laid out. The last `split_blocks` thread blocks of every head go over the keys in
// `pieces` parts, each a thread block of its own, which fill a last wave that would leave
// multiprocessors idle; a second kernel merges the parts. All heads and batch rows alike, so that
// the bits of a row don't depend on which one it is. Split: kThree alone, and at most a piece for
// every 128 keys.
struct AttentionSm90Tiling {
  AttentionSm90Schedule schedule = AttentionSm90Schedule::kTwo;
  int split_blocks = 0;
  int pieces = 1;
};
inline constexpr int kAttentionSm90MostPieces = 4;
std::string NameOf(const AttentionSm90Tiling& tiling);

// kFewKeys where it serves; else what is expected to end first, by the time of full waves on an
// H100 and how thread blocks follow each other on the multiprocessors; pure. Reads counts of the
// arguments and whether there is a bias.
AttentionSm90Tiling ChooseAttentionSm90Tiling(const AttentionSm90Args& args, int multiprocessors);

// What the parts of the split thread blocks take. Reads counts.
int64_t AttentionSm90WorkspaceFloats(const AttentionSm90Args& args,
                                     const AttentionSm90Tiling& tiling);

// Enqueues o = softmax(scale q k^T + key_bias) v on `stream`. Allocates nothing, so a CUDA graph
// may capture it. Accumulates in float32; probabilities enter the second product as bfloat16. They
// are relative to the largest score of the first 128 keys; a thread block that finds a later score
// to be 2^100 times as large begins again, and then looks for the largest of every 128 (kTwoPaired
// and biased: always so). That takes twice the time, and no model of ours has such scores.
// Returns cudaErrorInvalidValue for operands out of the contract.
// Source: FlashAttention-3 (arXiv 2407.08608), sections 3.1 and 3.2: warp specialisation, softmax
// of one warpgroup under the products of another, and of one tile under the products of the next.
// Parts of the keys: Flash-Decoding. Ours: the head size, to split the last wave alone, and to go
// without maxima.
cudaError_t LaunchAttentionSm90(const AttentionSm90Args& args, const AttentionSm90Tiling& tiling,
                                cudaStream_t stream);

}  // namespace patchflow

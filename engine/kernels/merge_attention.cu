#include "engine/kernels/merge_attention.h"

#include <limits>

#include "engine/kernels/vectors.cuh"

namespace patchflow {
namespace {

constexpr int kThreads = 256;

template <class Part>
__global__ void __launch_bounds__(kThreads)
    MergeKernel(const MergeAttentionArgs args, unsigned vectors) {
  const unsigned at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= vectors) {
    return;
  }
  const unsigned vectors_a_head = args.head_size / kVector;
  const unsigned row = at / vectors_a_head;  // Of all batches, queries and heads.
  const unsigned head = row % args.heads;
  const unsigned query = row / args.heads % args.queries;
  const unsigned batch_row = row / args.heads / args.queries;
  const int64_t batch_head = int64_t{batch_row} * args.heads + head;
  const int64_t lse_at = batch_head * args.queries + query;
  float top = args.lse[0][lse_at];
  for (int part = 1; part < args.parts; ++part) {
    top = fmaxf(top, args.lse[part][lse_at]);
  }
  float sum = 0;
  float y[kVector] = {};
  for (int part = 0; part < args.parts; ++part) {
    const float weight = __expf(args.lse[part][lse_at] - top);
    sum += weight;
    float x[kVector];
    LoadVector(static_cast<const Part*>(args.o[part]) + int64_t{at} * kVector, x);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      y[i] = fmaf(weight, x[i], y[i]);
    }
  }
  const float inverse = 1.0F / sum;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    y[i] *= inverse;
  }
  const int64_t in_batch =
      int64_t{at} - int64_t{batch_row} * args.queries * args.heads * vectors_a_head;
  StoreVector(y, static_cast<__nv_bfloat16*>(args.out) + batch_row * args.out_batch_stride +
                     in_batch * kVector);
  if (args.out_lse != nullptr && at % vectors_a_head == 0) {
    args.out_lse[batch_head * args.out_lse_head_stride + query] = top + __logf(sum);
  }
}

}  // namespace

cudaError_t LaunchMergeAttention(const MergeAttentionArgs& args, cudaStream_t stream) {
  const int64_t numbers = int64_t{args.batch} * args.queries * args.heads * args.head_size;
  if (args.parts < 1 || args.parts > kMergeAttentionMostParts || args.head_size % kVector != 0 ||
      numbers < 1 || numbers / kVector > std::numeric_limits<int>::max()) {
    return cudaErrorInvalidValue;
  }
  const auto vectors = static_cast<unsigned>(numbers / kVector);
  const unsigned blocks = (vectors + kThreads - 1) / kThreads;
  if (args.float_parts) {
    MergeKernel<float><<<blocks, kThreads, 0, stream>>>(args, vectors);
  } else {
    MergeKernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(args, vectors);
  }
  return cudaGetLastError();
}

}  // namespace patchflow

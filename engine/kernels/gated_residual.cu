#include "engine/kernels/gated_residual.h"

#include "engine/kernels/vectors.cuh"

namespace patchflow {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) GatedResidualKernel(const GatedResidualArgs args) {
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector;
  if (at >= args.rows * args.width) {
    return;
  }
  const int column = static_cast<int>(at % args.width);
  float x[kVector];
  float residual[kVector];
  LoadVector(static_cast<const __nv_bfloat16*>(args.x) + at, x);
  LoadVector(static_cast<const __nv_bfloat16*>(args.residual) + at, residual);
  if (args.bias != nullptr) {
    float bias[kVector];
    LoadVector(static_cast<const __nv_bfloat16*>(args.bias) + column, bias);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      x[i] += bias[i];
    }
  }
  if (args.gate != nullptr) {
    float gate[kVector];
    LoadVector(args.gate + column, gate);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      x[i] *= gate[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    x[i] += residual[i];
  }
  StoreVector(x, static_cast<__nv_bfloat16*>(args.y) + at);
}

}  // namespace

cudaError_t LaunchGatedResidual(const GatedResidualArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.width < kVector || args.width % kVector != 0) {
    return cudaErrorInvalidValue;
  }
  const int64_t vectors = args.rows * args.width / kVector;
  GatedResidualKernel<<<static_cast<unsigned>((vectors + kThreads - 1) / kThreads), kThreads, 0,
                        stream>>>(args);
  return cudaGetLastError();
}

}  // namespace patchflow

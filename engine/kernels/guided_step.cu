#include "engine/kernels/guided_step.h"

#include <cuda_bf16.h>

namespace patchflow {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 6;

__global__ void __launch_bounds__(kThreads) GuidedStepKernel(const GuidedStepArgs args) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= args.n) {
    return;
  }
  const auto* branches = static_cast<const __nv_bfloat16*>(args.eps);
  float eps = __bfloat162float(branches[i]);
  if (args.branches == 2) {
    eps += args.guidance_scale * (__bfloat162float(branches[args.n + i]) - eps);
  }
  const float* row = args.table + *args.step * kColumns;
  const float x = args.x[i];
  const float x0 = row[1] * x + row[2] * eps;
  float next = row[3] * x + row[4] * x0;
  if (args.previous_x0 != nullptr) {
    next += row[5] * args.previous_x0[i];
    args.previous_x0[i] = x0;
  }
  args.x[i] = next;
}

}  // namespace

cudaError_t LaunchGuidedStep(const GuidedStepArgs& args, cudaStream_t stream) {
  if (args.n < 1 || args.branches < 1 || args.branches > 2) {
    return cudaErrorInvalidValue;
  }
  GuidedStepKernel<<<static_cast<unsigned>((args.n + kThreads - 1) / kThreads), kThreads, 0,
                     stream>>>(args);
  return cudaGetLastError();
}

}  // namespace patchflow

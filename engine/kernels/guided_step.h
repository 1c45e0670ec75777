// Guidance and the sampler's step in one pass over the tokens.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace patchflow {

// Device memory; n tokens' numbers a branch, dense.
struct GuidedStepArgs {
  const void* eps = nullptr;  // bfloat16 [branches, n]: negative, then positive; or positive alone.
  int branches = 2;           // 1 or 2
  float guidance_scale = 1;   // Of two branches.
  // float32 [steps, 6]: input_scale, x0_x, x0_eps, next_x, next_x0, next_previous; see sampler.h.
  const float* table = nullptr;
  const int64_t* step = nullptr;  // The row.
  float* x = nullptr;             // [n], becomes that of the next step.
  float* previous_x0 = nullptr;   // [n], becomes this step's; none for samplers that look at none.
  int64_t n = 0;
};

// Enqueues, in float32:
//   eps = negative + guidance_scale (positive - negative)
//   x0  = x0_x x + x0_eps eps
//   x   = next_x x + next_x0 x0 + next_previous previous_x0
// Returns cudaErrorInvalidValue for operands out of the contract.
cudaError_t LaunchGuidedStep(const GuidedStepArgs& args, cudaStream_t stream);

}  // namespace patchflow

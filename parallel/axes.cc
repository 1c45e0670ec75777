#include "parallel/axes.h"

#include "parallel/guidance_split.h"
#include "parallel/tensor_parallel.h"

namespace patchflow {

std::unique_ptr<PartialSum> MakePartialSum(const Mesh& mesh) {
  if (mesh.tensor == nullptr) {
    return std::make_unique<LocalSum>();
  }
  return std::make_unique<AllReducePartialSum>(*mesh.tensor);
}

std::unique_ptr<Guidance> MakeGuidance(const Mesh& mesh, double scale) {
  if (mesh.guidance == nullptr) {
    return std::make_unique<LocalGuidance>(scale);
  }
  return std::make_unique<SplitGuidance>(*mesh.guidance, scale);
}

Prompt BranchesOf(const Prompt& prompts, const Guidance& guidance) {
  return {guidance.Branches(prompts.text_BLD), guidance.Branches(prompts.mask_BL), prompts.images};
}

}  // namespace patchflow

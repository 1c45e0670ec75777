// The engine's ports along the tensor and guidance axes of a mesh: local where an axis has one
// rank.
#pragma once

#include <memory>

#include "engine/ports.h"
#include "engine/transformer.h"
#include "parallel/mesh.h"

namespace patchflow {

// Borrow the mesh.
std::unique_ptr<PartialSum> MakePartialSum(const Mesh& mesh);
std::unique_ptr<Guidance> MakeGuidance(const Mesh& mesh, double scale);

// The prompts of the branches held here.
Prompt BranchesOf(const Prompt& prompts, const Guidance& guidance);

}  // namespace patchflow

// One rank of a group: a layout and a world become the ports of its engine.
#pragma once

#include <memory>

#include "engine/engine.h"
#include "parallel/layout.h"
#include "parallel/mesh.h"
#include "parallel/world.h"

namespace patchflow {

// Owned by the rank's thread. Outlives the rank's engine; the world outlives it.
class GroupRank {
 public:
  // Collective of the world, whose size CheckLayout() was given. Throws CommunicatorError.
  GroupRank(const Layout& layout, World& world, const TransformerConfig& model);
  ~GroupRank();
  GroupRank(const GroupRank&) = delete;
  GroupRank& operator=(const GroupRank&) = delete;

  // Transformer and denoiser as the layout says, and whether the text encoder is tensor-parallel
  // over all ranks of the group; the image is decoded by all ranks and returned by rank 0. Borrow
  // this.
  EnginePorts ports() const;
  const Mesh& mesh() const { return mesh_; }

 private:
  const Layout layout_;
  const BlockRange blocks_;
  const Mesh mesh_;
  std::unique_ptr<PartialSum> tensor_sum_;
  std::unique_ptr<PartialSum> text_sum_;
};

}  // namespace patchflow

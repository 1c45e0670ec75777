// Ulysses, ring attention and their product: tokens divided, attention exact.
#pragma once

#include <functional>
#include <memory>

#include "engine/denoiser.h"
#include "engine/ports.h"
#include "parallel/layout.h"
#include "parallel/mesh.h"
#include "parallel/token_plan.h"

namespace patchflow {

// Attention over the tokens of every rank of the sequence axis: Ulysses outside, the ring inside,
// and between them, if given, a cache of keys and values: `wrap` makes it around the ring, or
// around local attention. Borrows mesh and plan.
// Source: USP (arXiv 2405.07719), section 3.
class SequenceAttention final : public SelfAttention {
 public:
  using Wrap = std::function<std::unique_ptr<SelfAttention>(SelfAttention& inner)>;
  SequenceAttention(const Mesh& mesh, const TokenPlan& plan, const Wrap& wrap = {});
  Tensor Attend(const AttentionInput& in) override { return outer_->Attend(in); }

 private:
  std::unique_ptr<SelfAttention> innermost_;
  std::unique_ptr<SelfAttention> cache_;
  std::unique_ptr<SelfAttention> ulysses_;
  SelfAttention* outer_;
};

// For layouts without stale methods; serial, tensor parallelism and guidance split among them.
// Borrows transformer and mesh.
std::unique_ptr<Denoiser> MakeSequenceDenoiser(const Transformer& transformer, const Layout& layout,
                                               const Mesh& mesh);

}  // namespace patchflow

#include "parallel/stage_memory.h"

#include <ATen/ATen.h>

#include "parallel/patch_cache.h"

namespace patchflow {
namespace {

SequenceAttention::Wrap CacheOf(const Mesh& mesh, const TokenPlan& plan, int num_blocks) {
  return [&mesh, &plan, num_blocks](SelfAttention& inner) {
    const int here = mesh.here.sequence;
    const int ulysses = mesh.degrees.ulysses;
    return std::make_unique<PatchCache>(
        plan, PatchCache::Ranks{.rank = here, .first = here - here % ulysses, .count = ulysses},
        num_blocks, inner);
  };
}

}  // namespace

StageMemory::StageMemory(const Transformer& transformer, const Layout& layout, const Mesh& mesh,
                         Kind kind, at::TensorOptions latents)
    : mesh_(mesh),
      kind_(kind),
      width_(transformer.config().width()),
      hidden_(latents.dtype(transformer.dtype())),
      plan_(kind.tokens, mesh.degrees.sequence, layout.patches),
      attention_(mesh, plan_, CacheOf(mesh, plan_, transformer.config().num_blocks)) {
  const int64_t channels = transformer.config().token_width();
  for (int i = 0; i < plan_.patches(); ++i) {
    StagePart patch;
    patch.span = plan_.Slab(mesh.here.sequence, i);
    patch.x_NSC = at::empty({kind.images, patch.span.size(), channels}, latents);
    patch.state.previous_x0_NSC = at::empty_like(patch.x_NSC);
    AllocateHidden(patch);
    patches_.push_back(std::move(patch));
  }
}

void StageMemory::AllocateHidden(StagePart& part) const {
  if (!mesh_.first_stage()) {
    part.input_BSE = at::empty({kind_.rows, part.span.size(), width_}, hidden_);
  }
  if (!mesh_.last_stage()) {
    part.output_BSE = at::empty({kind_.rows, part.span.size(), width_}, hidden_);
  }
}

StagePart StageMemory::WholeShare(const LoopMemory& loop) const {
  StagePart whole{share(), loop.x_NSC, loop.state, {}, {}};
  AllocateHidden(whole);
  return whole;
}

}  // namespace patchflow

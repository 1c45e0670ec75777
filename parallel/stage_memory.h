// What a PipeFusion stage keeps of an image while its patches go round, and from request to request
// where captured kernels refer to it.
#pragma once

#include <memory>
#include <vector>

#include "engine/denoiser.h"
#include "engine/loop_graphs.h"
#include "parallel/layout.h"
#include "parallel/mesh.h"
#include "parallel/sequence_parallel.h"
#include "parallel/token_plan.h"

namespace patchflow {

// A run of tokens, in the plan's order.
struct StagePart {
  TokenSpan span;
  Tensor x_NSC;        // float32 latents, on the first and the last stage.
  SamplerState state;  // On the last stage.
  Tensor input_BSE;    // What the stage before sends; undefined on the first.
  Tensor output_BSE;   // What goes to the next; undefined on the last.
};

class StageMemory {
 public:
  // Requests of one kind fit into the same memory.
  struct Kind {
    int64_t tokens = 0;
    int64_t images = 0;
    int64_t rows = 0;  // Images x branches held here.
    bool operator==(const Kind&) const = default;
  };
  StageMemory(const Transformer& transformer, const Layout& layout, const Mesh& mesh, Kind kind,
              at::TensorOptions latents);

  const Kind& kind() const { return kind_; }
  const TokenPlan& plan() const { return plan_; }
  TokenSpan share() const { return plan_.Share(mesh_.here.sequence); }
  SelfAttention& attention() { return attention_; }
  LoopGraphs& graphs() { return graphs_; }
  std::vector<StagePart>& patches() { return patches_; }

  // The whole share over these latents, with input and output of its own.
  StagePart WholeShare(const LoopMemory& loop) const;

 private:
  void AllocateHidden(StagePart& part) const;

  const Mesh& mesh_;
  const Kind kind_;
  const int64_t width_;
  const at::TensorOptions hidden_;
  const TokenPlan plan_;
  SequenceAttention attention_;  // With the cache of keys and values.
  std::vector<StagePart> patches_;
  LoopGraphs graphs_;
};

}  // namespace patchflow

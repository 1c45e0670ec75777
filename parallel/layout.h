// How the ranks of a group divide one image: the degrees that an operator writes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/transformer.h"

namespace patchflow {

// Degrees of 1 leave a method out. Ranks are the product of the degrees, `patches` excepted.
struct Layout {
  int pipefusion = 1;       // Stages of consecutive blocks.
  int patches = 1;          // Runs of tokens that flow through the stages. PipeFusion is on if > 1.
  int distrifusion = 1;     // Ranks with a share of the tokens each, the others' a step old.
  int warmup_steps = 1;     // Synchronous steps of the two stale methods above.
  int ulysses = 1;          // Ranks that swap tokens for heads in attention.
  int ring = 1;             // Ranks round which keys and values travel.
  int tensor = 1;           // Ranks that split heads and features.
  int guidance = 1;         // 2: a half of the ranks for each branch of classifier-free guidance.
  std::vector<int> blocks;  // Of each stage; empty divides them evenly.
  // All ranks split the text encoder by heads and features, for 1 / ranks of its memory. Otherwise
  // each holds all of it, and encodes by itself.
  bool shared_text = false;
  bool cuda_graphs = true;  // Replay captured steps on GPUs.

  int ranks() const { return pipefusion * sequence() * tensor * guidance; }
  // Ranks that share the tokens of a stage.
  int sequence() const { return distrifusion * ulysses * ring; }
  bool has_pipefusion() const { return pipefusion > 1 || patches > 1; }
  bool is_stale() const { return has_pipefusion() || distrifusion > 1; }
  bool operator==(const Layout&) const = default;
};

// "pipefusion=2,patches=4,warmup_steps=1", "blocks=3+5", "cuda_graphs=0"; "" and "serial" are one
// rank. PipeFusion without patches takes twice its stages. INVALID_ARGUMENT names unknown, repeated
// and out-of-range keys, and those that mean nothing here (patches without pipefusion, shared_text
// of one rank).
absl::StatusOr<Layout> ParseLayout(std::string_view text);

// What ParseLayout gives back: keys in the order above, those at their defaults left out; "serial".
std::string ToString(const Layout& layout);

// At start-up: whether this layout can run this model on so many ranks. INVALID_ARGUMENT says in
// words what can't be combined or divided.
absl::Status CheckLayout(const Layout& layout, int ranks, const TransformerConfig& model);

// At admission: whether an image of this size has enough tokens to be divided so.
absl::Status CheckTokens(const Layout& layout, TokenGrid grid);

// The blocks of one stage: as listed, else divided evenly, the first stages taking what is left.
BlockRange BlocksOf(const Layout& layout, int stage, int num_blocks);

}  // namespace patchflow

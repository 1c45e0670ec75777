// Attention of the VAE's middle block: every rank's own queries over the keys of all.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/ports.h"
#include "engine/vae/wide_head_attention.h"
#include "parallel/communicator.h"

namespace patchflow {

// One image and one head. Keys and values are gathered whole, 2 T D elements on each rank, of which
// each sends its own to every other; queries stay where they are and are worked off in parts.
// Everything is fresh. Borrows the ranks.
class SplitQueries final : public SelfAttention {
 public:
  //   spans:   tokens of each rank. A call is for the whole span of its rank.
  //   options: of each part. tile_done is called after each, equally often on all ranks.
  SplitQueries(Communicator& ranks, std::vector<TokenSpan> spans, WideHeadOptions options);
  Tensor Attend(const AttentionInput& in) override;

 private:
  Communicator& ranks_;
  const std::vector<TokenSpan> spans_;
  const int64_t parts_;
  const WideHeadOptions options_;  // Without tile_done: its tiles differ from rank to rank.
  const std::function<void()> part_done_;
};

}  // namespace patchflow

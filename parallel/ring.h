// Ring attention: keys and values travel round the ranks, outputs are merged.
#pragma once

#include <vector>

#include "engine/ports.h"
#include "parallel/communicator.h"

namespace patchflow {

// The queries given attend over the keys and values that every rank of the axis gives, rank r
// key_counts[r] of them. Each block of keys is passed on while it is being used: (ranks - 1) hops
// of one rank's keys and values a call. Outputs are merged by their log-sum-exp in float32.
// Everything is fresh. Borrows the axis.
// Source: Ring Attention (arXiv 2310.01889), without its causal mask.
class RingAttention final : public SelfAttention {
 public:
  RingAttention(Communicator& axis, std::vector<int64_t> key_counts)
      : axis_(axis), key_counts_(std::move(key_counts)) {}
  Tensor Attend(const AttentionInput& in) override;

 private:
  struct KeysAndValues {
    Tensor k_BTHD;
    Tensor v_BTHD;
  };
  // The block of keys that is `hops` ranks behind this one, to be filled.
  KeysAndValues Allocate(const KeysAndValues& like, int hops) const;
  Pending PassOn(const KeysAndValues& held, const KeysAndValues& next);

  Communicator& axis_;
  const std::vector<int64_t> key_counts_;
};

}  // namespace patchflow

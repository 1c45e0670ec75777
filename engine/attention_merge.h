// Attention over all keys, from attention over parts of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "engine/attention.h"

namespace patchflow {

// Takes `parts` parts of the same queries, one after the other, in the order in which their bits
// depend on. bfloat16 on a GPU: keeps them and merges all in one kernel; else merges each at once.
// float32 until the one rounding at the end. One rank's thread.
// Source: Ring Attention (arXiv 2310.01889), section 3.
class AttentionMerger {
 public:
  //   images: of the batch, each merged to the bit as if it were alone; see ByImage().
  AttentionMerger(const Tensor& q_BSHD, int64_t images, int parts);

  void Add(const AttentionPart& part);
  // o_BSHD in the dtype of the queries, contiguous. Once, after the last part.
  Tensor Result() const;

 private:
  struct Merged {
    Tensor o_BSHD;  // float32
    Tensor lse_BHS;
  };
  static void Merge(Merged& merged, const AttentionPart& part);
  int64_t images() const { return static_cast<int64_t>(merged_.size()); }
  // The rows of one image.
  Tensor Of(int64_t image, const Tensor& x_B) const;

  const at::ScalarType dtype_;
  const bool at_once_;
  std::vector<AttentionPart> parts_;  // Where they are merged at once.
  std::vector<Merged> merged_;        // By image.
};

}  // namespace patchflow

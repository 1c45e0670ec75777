// What a network needs beyond the tokens, features, branches and rows that it holds. The engine
// declares these ports and implements them for one device; parallel/ implements them for many. A
// network never knows which it got.
//
// Shape suffixes, everywhere: B batch rows held here (images x guidance branches), S image tokens
// held here, L text tokens, H heads held here, D head size, E width of the model, C channels, h w
// rows and columns, O I sides of a weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace patchflow {

using at::Tensor;

// Image tokens [begin, end), in the order in which the denoiser lays out the tokens of the whole
// image.
struct TokenSpan {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const TokenSpan&) const = default;
};

struct AttentionInput {
  int block =
      0;  // Index in the whole model, so that state kept per block survives a split into stages.
  TokenSpan span;  // The image tokens that q, k and v are of.
  Tensor q_BSHD;   // Compute dtype. Strides are free but for D, which is dense: slices of one QKV
                   // product are legal.
  Tensor k_BSHD;
  Tensor v_BSHD;
  int64_t images = 1;  // Of the batch: row b * images + n is of branch b of image n.
};

// Needs other tokens.
class SelfAttention {
 public:
  virtual ~SelfAttention() = default;
  // softmax(q k^T / sqrt(D)) v over the tokens of the whole image, for exactly the queries given:
  // o_BSHD, contiguous. A collective of the token axis: every rank calls it for the same blocks in
  // the same order.
  virtual Tensor Attend(const AttentionInput& in) = 0;
};

// Needs other features.
class PartialSum {
 public:
  virtual ~PartialSum() = default;
  // Sum of `partial` over the tensor axis; same shape and dtype. May work in place.
  virtual Tensor Complete(Tensor partial) = 0;
};

// Needs the other branch of classifier-free guidance. Branch 0 is the negative prompt, branch 1 the
// prompt; a guidance scale of 1 has one branch, the prompt.
class Guidance {
 public:
  virtual ~Guidance() = default;
  // [2N, ...] (all negative rows, then all positive ones) -> the rows of the branches held here.
  virtual Tensor Branches(const Tensor& both) const = 0;
  // x_NSC -> [N x branches held here, S, C].
  virtual Tensor Expand(const Tensor& x_NSC) const = 0;
  // Outputs of the branches held here -> negative + scale * (positive - negative), [N, S, C].
  virtual Tensor Combine(const Tensor& eps_BSC) = 0;
};

// Rows of a feature map beyond the edge of the slab held here. Slabs are runs of whole rows, in
// order.
class NeighbourRows {
 public:
  virtual ~NeighbourRows() = default;
  // x_BChw with `rows` more rows above and below: the neighbours' own, or zeros at the edges of the
  // image.
  virtual Tensor WithHalo(const Tensor& x_BChw, int64_t rows) = 0;
};

// Statistics of groups of channels over the whole image, float32, [B, groups]: element count, mean,
// and the sum of squared differences from that mean. Merged by Chan, Golub and LeVeque (1979),
// which does not cancel.
struct GroupMoments {
  double count = 0;
  Tensor mean_BG;
  Tensor m2_BG;
};
class Moments {
 public:
  virtual ~Moments() = default;
  virtual GroupMoments Merge(const GroupMoments& held_here) = 0;
};

// One device.
class LocalAttention final : public SelfAttention {
 public:
  Tensor Attend(const AttentionInput& in) override;
};
class LocalSum final : public PartialSum {
 public:
  Tensor Complete(Tensor partial) override { return partial; }
};
class LocalRows final : public NeighbourRows {
 public:
  Tensor WithHalo(const Tensor& x_BChw, int64_t rows) override;
};
class LocalMoments final : public Moments {
 public:
  GroupMoments Merge(const GroupMoments& held_here) override { return held_here; }
};
// Both branches in one batch when scale != 1, the prompt alone otherwise.
class LocalGuidance final : public Guidance {
 public:
  explicit LocalGuidance(double scale) : scale_(scale) {}
  Tensor Branches(const Tensor& both) const override;
  Tensor Expand(const Tensor& x_NSC) const override;
  Tensor Combine(const Tensor& eps_BSC) override;

 private:
  double scale_;
};

}  // namespace patchflow

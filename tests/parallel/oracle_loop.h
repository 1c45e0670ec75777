// What the oracles of the stale methods have in common: one thread, one whole model, plain loops,
// no communicators; written apart from parallel/ to test it.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "engine/denoiser.h"

namespace patchflow {

// Of one block, of any tokens.
struct OracleKeys {
  Tensor k_BTHD;
  Tensor v_BTHD;
};

// A run of tokens with all that the sampler knows of it.
struct OraclePart {
  TokenSpan span;
  Tensor x_NSC;
  SamplerState state;
};
// As even as can be, the first ones one token longer; without history.
std::vector<OraclePart> DivideTokens(const Tensor& x_NSC, int64_t parts);
Tensor JoinTokens(const std::vector<OraclePart>& parts);

// What all steps of one job have in common. Borrows both.
class OracleLoop {
 public:
  using Attend = std::function<Tensor(const AttentionInput&)>;

  OracleLoop(const Transformer& whole, const DenoiseJob& job);

  void BeginStep(int step);
  Tensor Noise() const;
  Tensor Embed(const OraclePart& part);
  Tensor RunBlocks(BlockRange range, const Tensor& h_BSE, const OraclePart& part, Attend attend);
  // Steps the sampler.
  void Finish(const Tensor& h_BSE, OraclePart& part);
  int num_blocks() const { return whole_.config().num_blocks; }

 private:
  StepContext Context(const OraclePart& part, SelfAttention& attention);

  const Transformer& whole_;
  const DenoiseJob& job_;
  LocalGuidance guidance_;
  LocalSum sum_;
  const std::unique_ptr<Conditioning> conditioning_;
  Tensor step_;
};

}  // namespace patchflow

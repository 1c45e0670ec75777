// One rank's share of measuring a layout: milliseconds, bytes and memory of a step.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bench/rank_threads.h"
#include "bench/timing.h"
#include "engine/transformer.h"
#include "parallel/counting_communicator.h"
#include "parallel/group.h"
#include "parallel/layout.h"

namespace patchflow {

// A phase of the loop: the steps in which all is fresh, or those of the stale methods after it.
struct StepPhase {
  bool stale = false;
  bool cuda_graphs = false;
};

struct StepFigures {
  Quantiles time;
  int64_t sent_bytes = 0;  // Of one step.
  // For others, of one step on average: see Traffic. Exact with captured steps if the measured ones
  // are a multiple of those to one that is timed.
  double waited_ms = 0;
  int64_t peak_bytes = 0;  // Tensors at most, weights included.
};

struct ImageFigures {
  Tensor latents;  // Final ones, on the host.
  double ms = 0;   // From noise and the text's encoding to them; no decoding.
};

// On the rank's thread; every method is a collective of the group. Owns communicators and weights.
class LayoutSteps {
 public:
  LayoutSteps(const Layout& layout, const std::filesystem::path& transformer_dir,
              const RankThread& rank);

  int64_t parameter_bytes() const { return transformer_->parameter_bytes(); }

  // Of steps that follow `repeats.warm_up` others of one request, or as many more as the phase
  // needs to have begun and to have been captured.
  StepFigures Measure(int64_t size_px, StepPhase phase, Repeats repeats);
  // A whole image in so many steps, from seeds that depend on the size alone, after another that is
  // not timed.
  ImageFigures Image(int64_t size_px, StepPhase phase, int steps);

 private:
  Layout LayoutOf(StepPhase phase) const;

  const Layout layout_;
  const at::Device device_;
  CountingWorld world_;
  GroupRank member_;
  std::unique_ptr<Transformer> transformer_;
};

}  // namespace patchflow

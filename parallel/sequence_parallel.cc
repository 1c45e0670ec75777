#include "parallel/sequence_parallel.h"

#include "engine/loop_graphs.h"
#include "parallel/axes.h"
#include "parallel/exchange.h"
#include "parallel/ring.h"
#include "parallel/ulysses.h"

namespace patchflow {
namespace {

class SequenceDenoiser final : public Denoiser {
 public:
  SequenceDenoiser(const Transformer& transformer, const Mesh& mesh, bool cuda_graphs)
      : transformer_(transformer),
        mesh_(mesh),
        cuda_graphs_(cuda_graphs),
        tensor_axis_(MakePartialSum(mesh)) {}

  Tensor Denoise(const DenoiseJob& job, StepMonitor& monitor) override {
    const TokenPlan plan(job.grid.size(), mesh_.degrees.sequence, 1);
    const auto guidance = MakeGuidance(mesh_, job.guidance_scale);
    const auto conditioning = transformer_.Prepare(BranchesOf(job.prompts, *guidance), job.grid,
                                                   job.sampler.timesteps(), {});
    SequenceAttention attention(mesh_, plan);
    const auto whole = [&](const Tensor& own_NSC) {
      return GatherSpans(mesh_.sequence.get(), own_NSC, plan.Shares());
    };
    return whole(DenoiseSpan(job,
                             {.transformer = transformer_,
                              .conditioning = *conditioning,
                              .attention = attention,
                              .tensor_axis = *tensor_axis_,
                              .guidance = *guidance,
                              .span = plan.Share(mesh_.here.sequence),
                              .graphs = cuda_graphs_ ? &graphs_ : nullptr,
                              .whole = whole},
                             monitor));
  }

 private:
  const Transformer& transformer_;
  const Mesh& mesh_;
  const bool cuda_graphs_;
  const std::unique_ptr<PartialSum> tensor_axis_;
  LoopGraphs graphs_;
};

// Keys that each rank of the ring holds: those of its Ulysses ranks.
std::vector<int64_t> KeyCounts(const TokenPlan& plan, int ulysses) {
  std::vector<int64_t> counts;
  for (int first = 0; first < plan.ranks(); first += ulysses) {
    counts.push_back(plan.Share(first + ulysses - 1).end - plan.Share(first).begin);
  }
  return counts;
}

}  // namespace

SequenceAttention::SequenceAttention(const Mesh& mesh, const TokenPlan& plan, const Wrap& wrap) {
  const int ulysses = mesh.degrees.ulysses;
  const int here = mesh.here.sequence;
  if (mesh.ring != nullptr) {
    innermost_ = std::make_unique<RingAttention>(*mesh.ring, KeyCounts(plan, ulysses));
  } else {
    innermost_ = std::make_unique<LocalAttention>();
  }
  outer_ = innermost_.get();
  if (wrap) {
    cache_ = wrap(*outer_);
    outer_ = cache_.get();
  }
  if (mesh.ulysses != nullptr) {
    ulysses_ = std::make_unique<UlyssesAttention>(*mesh.ulysses, plan, here, here - here % ulysses,
                                                  /*by_branch=*/cache_ == nullptr, *outer_);
    outer_ = ulysses_.get();
  }
}

std::unique_ptr<Denoiser> MakeSequenceDenoiser(const Transformer& transformer, const Layout& layout,
                                               const Mesh& mesh) {
  return std::make_unique<SequenceDenoiser>(transformer, mesh, layout.cuda_graphs);
}

}  // namespace patchflow

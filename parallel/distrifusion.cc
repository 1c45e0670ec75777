#include "parallel/distrifusion.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <list>
#include <vector>

#include "engine/attention.h"
#include "engine/loop_graphs.h"
#include "parallel/axes.h"
#include "parallel/exchange.h"
#include "parallel/token_plan.h"
#include "parallel/wide_copy.h"

namespace patchflow {
namespace {

constexpr size_t kKeptKinds = 2;

enum class Freshness {
  kSynchronous,  // Keys and values of all ranks are of this step.
  kStale,        // Those of the others are of the last one; this step's travel for the next.
  kLast,         // The same, and nothing travels.
};

class StaleAttention final : public SelfAttention {
 public:
  // join_steps: what travels arrives before the step's last block ends, as a captured step needs.
  StaleAttention(Communicator& axis, std::vector<TokenSpan> spans, int num_blocks, bool join_steps)
      : axis_(axis), spans_(std::move(spans)), join_steps_(join_steps), blocks_(num_blocks) {}

  void BeginStep(Freshness freshness) { freshness_ = freshness; }

  Tensor Attend(const AttentionInput& in) override {
    Block& block = blocks_[in.block];
    block.arrival.Wait();
    Keep(in, block);
    if (freshness_ == Freshness::kSynchronous) {
      ExchangeSpans(axis_, block.kv_BS2HD, spans_).Wait();
    }
    Tensor o_BSHD = Sdpa(in.q_BSHD, block.kv_BS2HD.select(2, 0), block.kv_BS2HD.select(2, 1));
    if (freshness_ == Freshness::kStale) {
      block.arrival = ExchangeSpans(axis_, block.kv_BS2HD, spans_);
    }
    if (join_steps_ && &block == &blocks_.back()) {
      Join();
    }
    return o_BSHD;
  }

  // Waits for what is under way.
  void Join() {
    for (Block& block : blocks_) {
      block.arrival.Wait();
    }
  }

 private:
  struct Block {
    Tensor kv_BS2HD;  // Of the whole image.
    Pending arrival;
  };

  void Keep(const AttentionInput& in, Block& block) const {
    const Tensor& k = in.k_BSHD;
    if (!block.kv_BS2HD.defined()) {
      block.kv_BS2HD =
          at::empty({k.size(0), TotalSize(spans_), 2, k.size(2), k.size(3)}, k.options());
    }
    const Tensor own = block.kv_BS2HD.narrow(1, in.span.begin, in.span.size());
    CopyWide(own.select(2, 0), k);
    CopyWide(own.select(2, 1), in.v_BSHD);
  }

  Communicator& axis_;
  const std::vector<TokenSpan> spans_;
  const bool join_steps_;
  Freshness freshness_ = Freshness::kSynchronous;
  std::vector<Block> blocks_;
};

// Keys and values, and the captured steps that refer to them. Requests of one kind share both.
struct Memory {
  int64_t tokens;
  int64_t rows;
  StaleAttention attention;
  LoopGraphs graphs;
};

class DistriFusion final : public Denoiser {
 public:
  DistriFusion(const Transformer& transformer, const Layout& layout, const Mesh& mesh)
      : transformer_(transformer),
        mesh_(mesh),
        warmup_steps_(layout.warmup_steps),
        cuda_graphs_(layout.cuda_graphs),
        tensor_axis_(MakePartialSum(mesh)) {}

  Tensor Denoise(const DenoiseJob& job, StepMonitor& monitor) override {
    const TokenPlan plan(job.grid.size(), mesh_.degrees.sequence, 1);
    const bool graphs = cuda_graphs_ && job.noise_NSC.is_cuda();
    const auto guidance = MakeGuidance(mesh_, job.guidance_scale);
    const Prompt prompt = BranchesOf(job.prompts, *guidance);
    const auto conditioning = transformer_.Prepare(prompt, job.grid, job.sampler.timesteps(), {});
    Memory& memory = MemoryFor(plan, prompt.text_BLD.size(0), graphs);
    const int last = job.sampler.num_steps() - 1;
    const auto freshness = [this, last](int step) {
      return step < warmup_steps_ ? Freshness::kSynchronous
             : step < last        ? Freshness::kStale
                                  : Freshness::kLast;
    };
    const auto whole = [&](const Tensor& own_NSC) {
      return GatherSpans(mesh_.sequence.get(), own_NSC, plan.Shares());
    };
    const LoopParts parts{
        .transformer = transformer_,
        .conditioning = *conditioning,
        .attention = memory.attention,
        .tensor_axis = *tensor_axis_,
        .guidance = *guidance,
        .span = plan.Share(mesh_.here.sequence),
        .begin_step = [&](int step) { memory.attention.BeginStep(freshness(step)); },
        .phase = [&](int step) { return static_cast<int>(freshness(step)); },
        .graphs = graphs ? &memory.graphs : nullptr,
        .whole = whole};
    Tensor whole_NSC;
    try {
      whole_NSC = whole(DenoiseSpan(job, parts, monitor));
    } catch (const Cancelled&) {
      memory.attention.Join();
      ReleaseUnless(graphs);
      throw;
    }
    ReleaseUnless(graphs);
    return whole_NSC;
  }

 private:
  Memory& MemoryFor(const TokenPlan& plan, int64_t rows, bool graphs) {
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Memory& memory) {
      return memory.tokens == plan.tokens() && memory.rows == rows;
    });
    if (found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
      return kept_.front();
    }
    while (kept_.size() >= KeptKinds(kKeptKinds)) {
      kept_.pop_back();
    }
    return kept_.emplace_front(
        plan.tokens(), rows,
        StaleAttention(*mesh_.sequence, plan.Shares(), transformer_.config().num_blocks, graphs));
  }

  // Only captured steps need the memory to stay where it is.
  void ReleaseUnless(bool graphs) {
    if (!graphs) {
      kept_.clear();
    }
  }

  const Transformer& transformer_;
  const Mesh& mesh_;
  const int warmup_steps_;
  const bool cuda_graphs_;
  const std::unique_ptr<PartialSum> tensor_axis_;
  std::list<Memory> kept_;  // Used last first.
};

}  // namespace

std::unique_ptr<Denoiser> MakeDistriFusion(const Transformer& transformer, const Layout& layout,
                                           const Mesh& mesh) {
  return std::make_unique<DistriFusion>(transformer, layout, mesh);
}

}  // namespace patchflow

#include "parallel/pipefusion.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <deque>
#include <list>
#include <vector>

#include "parallel/axes.h"
#include "parallel/exchange.h"
#include "parallel/stage_memory.h"
#include "parallel/stage_preview.h"

namespace patchflow {
namespace {

constexpr size_t kKeptKinds = 2;

// What stays the same from request to request.
struct Stage {
  const Transformer& transformer;
  const Mesh& mesh;
  PartialSum& tensor_axis;
  int warmup_steps;
  bool cuda_graphs;  // On CUDA devices.
};

// One stage's way through one request.
class StageRun {
 public:
  // `job` has its noise in the order of the memory's plan.
  StageRun(const Stage& stage, StageMemory& memory, const DenoiseJob& job, Guidance& guidance,
           const Conditioning& conditioning, const StagePreview::Whole& whole);

  // Latents of this rank's share of the tokens on the last stage; of that shape, but anything,
  // elsewhere.
  Tensor Run(StepMonitor& monitor);

 private:
  void RunSynchronousSteps(StepMonitor& monitor);
  void RunPatches(StepMonitor& monitor);
  void SplitIntoPatches();
  // This stage's kernels over a part: a function of device memory.
  void Enqueue(StagePart& part);
  void SendOn(const StagePart& part);

  bool Continue(StepMonitor& monitor, int step);
  // Takes in what was on its way when all stages stopped before `step`.
  [[noreturn]] void Stop(int step);

  bool alone() const { return mesh_.degrees.stages == 1; }
  // Begins to receive what `part` is computed from.
  Pending Receive(const StagePart& part);
  // The same for a patch in `step`, unless it is there already.
  Pending Expect(int step, size_t patch);
  void WaitForSends(size_t left);
  void EndStep();
  // A copy of what the sampler expects of the share.
  Tensor DataPrediction() const;

  const Stage& stage_;
  const Mesh& mesh_;
  StageMemory& memory_;
  const DenoiseJob& job_;
  Guidance& guidance_;
  const int num_steps_;
  const int warmup_steps_;
  const LoopParts parts_;
  LoopGraphs* const graphs_;
  LoopMemory own_loop_;
  LoopMemory& loop_;
  StepFence fence_;
  int step_ = 0;
  StagePart whole_;
  bool split_ = false;  // The share is in the patches.
  std::deque<Pending> sends_;
  StagePreview preview_;
};

StageRun::StageRun(const Stage& stage, StageMemory& memory, const DenoiseJob& job,
                   Guidance& guidance, const Conditioning& conditioning,
                   const StagePreview::Whole& whole)
    : stage_(stage),
      mesh_(stage.mesh),
      memory_(memory),
      job_(job),
      guidance_(guidance),
      num_steps_(job.sampler.num_steps()),
      warmup_steps_(std::min(stage.warmup_steps, num_steps_)),
      parts_{.transformer = stage.transformer,
             .conditioning = conditioning,
             .attention = memory.attention(),
             .tensor_axis = stage.tensor_axis,
             .guidance = guidance,
             .span = memory.share()},
      graphs_(stage.cuda_graphs ? &memory.graphs() : nullptr),
      own_loop_(graphs_ == nullptr ? MakeLoopMemory(job, parts_) : LoopMemory{}),
      loop_(graphs_ == nullptr ? own_loop_ : graphs_->Begin(job, parts_)),
      fence_(job.noise_NSC.device()),
      whole_(memory.WholeShare(loop_)),
      preview_(stage.mesh, job.view, whole) {
  if (graphs_ == nullptr) {
    StartLoop(job, parts_, own_loop_);
  }
}

Tensor StageRun::Run(StepMonitor& monitor) {
  RunSynchronousSteps(monitor);
  Tensor share_NSC = whole_.x_NSC.clone();
  if (step_ < num_steps_) {
    RunPatches(monitor);
    std::vector<Tensor> patches;
    for (const StagePart& patch : memory_.patches()) {
      patches.push_back(patch.x_NSC);
    }
    share_NSC = at::cat(patches, 1);
  }
  WaitForSends(0);
  preview_.Finish(/*stopped=*/false);
  fence_.Wait(num_steps_ + 1);
  if (!monitor.Continue(num_steps_)) {
    throw Cancelled();
  }
  return share_NSC;
}

void StageRun::RunSynchronousSteps(StepMonitor& monitor) {
  while (step_ < warmup_steps_) {
    if (!Continue(monitor, step_)) {
      Stop(step_);
    }
    if (!alone() && !(mesh_.first_stage() && step_ == 0)) {
      Receive(whole_).Wait();
    }
    Enqueue(whole_);
    SendOn(whole_);
    WaitForSends(0);
    EndStep();
  }
}

void StageRun::RunPatches(StepMonitor& monitor) {
  if (!Continue(monitor, step_)) {
    Stop(step_);
  }
  SplitIntoPatches();
  std::vector<StagePart>& patches = memory_.patches();
  bool more = true;
  bool stopped = false;
  Pending arrival = Expect(step_, 0);
  while (more) {
    for (size_t i = 0; i < patches.size(); ++i) {
      arrival.Wait();
      if (i + 1 < patches.size()) {
        arrival = Expect(step_, i + 1);
      } else {
        stopped = step_ + 1 < num_steps_ && !Continue(monitor, step_ + 1);
        more = step_ + 1 < num_steps_ && !stopped;
        arrival = more ? Expect(step_ + 1, 0) : Pending();
      }
      WaitForSends(patches.size() - 1);  // The one of this patch in the last step is out.
      if (graphs_ != nullptr) {
        graphs_->Run(static_cast<int>(i), [&] { Enqueue(patches[i]); });
      } else {
        Enqueue(patches[i]);
      }
      SendOn(patches[i]);
    }
    EndStep();
  }
  if (stopped) {
    Stop(step_);
  }
}

void StageRun::SplitIntoPatches() {
  if (mesh_.first_stage() && !alone()) {
    Receive(whole_).Wait();
  }
  for (StagePart& patch : memory_.patches()) {
    const int64_t begin = patch.span.begin - whole_.span.begin;
    const auto part = [&](const Tensor& of) { return of.narrow(1, begin, patch.span.size()); };
    patch.x_NSC.copy_(part(whole_.x_NSC));
    patch.state.previous_x0_NSC.copy_(part(whole_.state.previous_x0_NSC));
  }
  whole_.input_BSE.reset();
  whole_.output_BSE.reset();
  split_ = true;
}

void StageRun::Enqueue(StagePart& part) {
  const StepContext context{*loop_.conditioning, loop_.step, part.span, parts_.attention,
                            parts_.tensor_axis};
  const Transformer& transformer = stage_.transformer;
  Tensor h_BSE = part.input_BSE;
  if (mesh_.first_stage()) {
    h_BSE = transformer.Embed(guidance_.Expand(loop_.sampler->ScaleInput(loop_.step, part.x_NSC)),
                              context);
  }
  h_BSE = transformer.RunBlocks(transformer.blocks(), std::move(h_BSE), context);
  if (mesh_.last_stage()) {
    const Tensor eps_NSC = guidance_.Combine(transformer.Project(h_BSE, context));
    part.x_NSC.copy_(loop_.sampler->Step(loop_.step, part.x_NSC, eps_NSC, part.state));
  } else {
    part.output_BSE.copy_(h_BSE);
  }
}

void StageRun::SendOn(const StagePart& part) {
  const bool last_of_all = mesh_.last_stage() && step_ + 1 == num_steps_;
  if (!alone() && !last_of_all) {
    Communicator& edge = *mesh_.to_next;
    const Tensor& t = mesh_.last_stage() ? part.x_NSC : part.output_BSE;
    sends_.push_back(edge.Send(t, 1 - edge.rank()));
  }
}

bool StageRun::Continue(StepMonitor& monitor, int step) {
  fence_.Wait(step);
  return monitor.Continue(step);
}

void StageRun::Stop(int step) {
  if (mesh_.first_stage() && !alone() && step > 0) {
    if (step <= warmup_steps_) {
      Receive(whole_).Wait();
    } else {
      for (const StagePart& patch : memory_.patches()) {
        Receive(patch).Wait();
      }
    }
  }
  WaitForSends(0);
  preview_.Finish(/*stopped=*/true);
  throw Cancelled();
}

Pending StageRun::Receive(const StagePart& part) {
  Communicator& edge = *mesh_.from_previous;
  return edge.Recv(mesh_.first_stage() ? part.x_NSC : part.input_BSE, 1 - edge.rank());
}

Pending StageRun::Expect(int step, size_t patch) {
  const bool at_hand = alone() || (mesh_.first_stage() && step == warmup_steps_);
  return at_hand ? Pending() : Receive(memory_.patches()[patch]);
}

void StageRun::WaitForSends(size_t left) {
  while (sends_.size() > left) {
    sends_.front().Wait();
    sends_.pop_front();
  }
}

void StageRun::EndStep() {
  preview_.EndStep(step_ + 1, whole_.x_NSC, [this] { return DataPrediction(); });
  fence_.Mark(step_);
  ++step_;
  loop_.step.add_(1);
}

Tensor StageRun::DataPrediction() const {
  if (!split_) {
    return whole_.state.previous_x0_NSC.clone();
  }
  std::vector<Tensor> patches;
  for (const StagePart& patch : memory_.patches()) {
    patches.push_back(patch.state.previous_x0_NSC);
  }
  return at::cat(patches, 1);
}

class PipeFusion final : public Denoiser {
 public:
  PipeFusion(const Transformer& transformer, const Layout& layout, const Mesh& mesh)
      : transformer_(transformer),
        layout_(layout),
        mesh_(mesh),
        tensor_axis_(MakePartialSum(mesh)) {}

  Tensor Denoise(const DenoiseJob& job, StepMonitor& monitor) override {
    const bool graphs = layout_.cuda_graphs && job.noise_NSC.is_cuda();
    const auto guidance = MakeGuidance(mesh_, job.guidance_scale);
    const Prompt prompt = BranchesOf(job.prompts, *guidance);
    const StageMemory::Kind kind{job.grid.size(), job.noise_NSC.size(0), prompt.text_BLD.size(0)};
    std::unique_ptr<StageMemory> own;
    if (!graphs) {
      own = std::make_unique<StageMemory>(transformer_, layout_, mesh_, kind,
                                          job.noise_NSC.options());
    }
    StageMemory& memory = graphs ? Kept(kind, job.noise_NSC.options()) : *own;
    const Tensor order = OrderOf(memory.plan(), job.noise_NSC.device());
    const auto conditioning =
        transformer_.Prepare(prompt, job.grid, job.sampler.timesteps(), order);
    DenoiseJob ordered = job;
    if (order.defined()) {
      ordered.noise_NSC = job.noise_NSC.index_select(1, order);
    }
    const Stage stage{transformer_, mesh_, *tensor_axis_, layout_.warmup_steps, graphs};
    const auto whole = [&](const Tensor& share_NSC) {
      const Tensor whole_NSC = GatherSpans(mesh_.sequence.get(), share_NSC, memory.plan().Shares());
      return order.defined() ? at::empty_like(whole_NSC).index_copy_(1, order, whole_NSC)
                             : whole_NSC;
    };
    StageRun run(stage, memory, ordered, *guidance, *conditioning, whole);
    const Tensor share_NSC = run.Run(monitor);
    SpreadFromLastStage(share_NSC);
    return whole(share_NSC);
  }

 private:
  // Memory that captured kernels refer to.
  StageMemory& Kept(StageMemory::Kind kind, at::TensorOptions latents) {
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const StageMemory& memory) {
      return memory.kind() == kind;
    });
    if (found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
    } else {
      while (kept_.size() >= KeptKinds(kKeptKinds)) {
        kept_.pop_back();
      }
      kept_.emplace_front(transformer_, layout_, mesh_, kind, latents);
    }
    return kept_.front();
  }

  static Tensor OrderOf(const TokenPlan& plan, at::Device device) {
    const Tensor order = plan.Order();
    return order.defined() ? order.to(device) : order;
  }

  void SpreadFromLastStage(const Tensor& share_NSC) const {
    using Kind = Communicator::Transfer::Kind;
    if (mesh_.stages == nullptr) {
      return;
    }
    const int last = mesh_.stages->size() - 1;
    std::vector<Communicator::Transfer> transfers;
    for (int stage = 0; stage < last; ++stage) {
      if (mesh_.last_stage()) {
        transfers.push_back({Kind::kSend, share_NSC, stage});
      } else if (stage == mesh_.here.stage) {
        transfers.push_back({Kind::kRecv, share_NSC, last});
      }
    }
    mesh_.stages->Grouped(transfers).Wait();
  }

  const Transformer& transformer_;
  const Layout layout_;
  const Mesh& mesh_;
  const std::unique_ptr<PartialSum> tensor_axis_;
  std::list<StageMemory> kept_;  // Used last first.
};

}  // namespace

std::unique_ptr<Denoiser> MakePipeFusion(const Transformer& transformer, const Layout& layout,
                                         const Mesh& mesh) {
  return std::make_unique<PipeFusion>(transformer, layout, mesh);
}

}  // namespace patchflow

#include "engine/step_graph.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "engine/stream_waits.h"

#ifdef PATCHFLOW_CUDA
#include <ATen/cuda/CUDAGraph.h>
#endif

namespace patchflow {

#ifdef PATCHFLOW_CUDA

namespace {

using Notes = std::vector<std::function<void()>>;
thread_local Notes* captured_notes = nullptr;

}  // namespace

void WithEachRun(std::function<void()> note) {
  if (captured_notes != nullptr) {
    captured_notes->push_back(std::move(note));
  } else {
    note();
  }
}

struct GraphPool::Id {
  at::cuda::MempoolId_t value = at::cuda::graph_pool_handle();
};

namespace {

// The step once, with event nodes around its waits or without.
struct Instance {
  at::cuda::CUDAGraph graph;
  Notes notes;
  CapturedWaits waits;

  void Capture(at::cuda::MempoolId_t pool, CapturedWaits::Nodes nodes,
               const std::function<void()>& enqueue) {
    graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    captured_notes = &notes;
    try {
      waits.Capture(nodes, enqueue);
    } catch (...) {
      captured_notes = nullptr;
      EndFailedCapture();
      throw;
    }
    captured_notes = nullptr;
    graph.capture_end();
  }

  void Replay() {
    for (const auto& note : notes) {
      note();
    }
    graph.replay();
  }

 private:
  // Leaves the stream usable. What is broken is reported by what broke it.
  void EndFailedCapture() noexcept {
    try {
      graph.capture_end();
    } catch (const std::exception&) {
      return;
    }
  }
};

}  // namespace

struct StepGraph::Captured {
  Captured(std::shared_ptr<const GraphPool::Id> of, int64_t to_one_timed,
           const std::function<void()>& enqueue)
      : pool(std::move(of)), sampler(to_one_timed) {
    plain.Capture(pool->value, CapturedWaits::Nodes::kNone, enqueue);
    if (plain.waits.count() > 0 && to_one_timed > 0) {
      timed = std::make_unique<Instance>();
      timed->Capture(pool->value, CapturedWaits::Nodes::kAround, enqueue);
    }
  }

  void Replay() {
    const int64_t stands_for = timed == nullptr ? 0 : sampler.Next();
    if (stands_for == 0) {
      return plain.Replay();
    }
    timed->waits.BeforeReplay();
    timed->Replay();
    timed->waits.AfterReplay(stands_for);
  }

  std::shared_ptr<const GraphPool::Id> pool;
  Instance plain;
  std::unique_ptr<Instance> timed;  // If there is a wait to be timed.
  ReplaySampler sampler;
};

std::shared_ptr<const GraphPool::Id> GraphPool::Current() {
  std::shared_ptr<const Id> id = current_.lock();
  if (id == nullptr) {
    id = std::make_shared<const Id>();
    current_ = id;
  }
  return id;
}

void StepGraph::Run(const std::function<void()>& enqueue) {
  TellWaits();
  if (!warm_) {
    enqueue();
    warm_ = true;
    return;
  }
  if (captured_ == nullptr) {
    captured_ = std::make_unique<Captured>(pool_->Current(), ReplaysToOneTimed(), enqueue);
  }
  captured_->Replay();
}

#else

struct GraphPool::Id {};
struct StepGraph::Captured {};

void StepGraph::Run(const std::function<void()>& enqueue) { enqueue(); }

void WithEachRun(std::function<void()> note) { note(); }

#endif

GraphPool::GraphPool() = default;
GraphPool::~GraphPool() = default;
StepGraph::StepGraph(GraphPool& pool) : pool_(&pool) {}
StepGraph::~StepGraph() = default;
StepGraph::StepGraph(StepGraph&&) noexcept = default;

}  // namespace patchflow

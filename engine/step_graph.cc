#include "engine/step_graph.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

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

struct StepGraph::Captured {
  std::shared_ptr<const GraphPool::Id> pool;
  at::cuda::CUDAGraph graph;
  Notes notes;

  void Capture(const std::function<void()>& enqueue) {
    graph.capture_begin(pool->value, cudaStreamCaptureModeThreadLocal);
    captured_notes = &notes;
    try {
      enqueue();
    } catch (...) {
      captured_notes = nullptr;
      EndFailedCapture();
      throw;
    }
    captured_notes = nullptr;
    graph.capture_end();
  }

  // Leaves the stream usable. What is broken is reported by what broke it.
  void EndFailedCapture() noexcept {
    try {
      graph.capture_end();
    } catch (const std::exception&) {
      return;
    }
  }
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
  if (!warm_) {
    enqueue();
    warm_ = true;
    return;
  }
  if (captured_ == nullptr) {
    auto captured = std::make_unique<Captured>();
    captured->pool = pool_->Current();
    captured->Capture(enqueue);
    captured_ = std::move(captured);
  }
  captured_->graph.replay();
  for (const auto& note : captured_->notes) {
    note();
  }
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

// A sequence of kernels that is enqueued again and again over the same device memory, captured once
// as a CUDA graph.
#pragma once

#include <functional>
#include <memory>

namespace patchflow {

// The memory that captured steps of one rank compute in. Graphs that share it must not overlap in
// time: one rank thread replays them one after the other on one stream.
class GraphPool {
 public:
  GraphPool();
  ~GraphPool();

 private:
  friend class StepGraph;
  struct Id;
  std::shared_ptr<const Id> Current();
  std::weak_ptr<const Id>
      current_;  // Dies with the last graph: LibTorch takes no emptied pool again.
};

// One sequence. The first Run calls `enqueue` as it is, so that libraries connect, plan and
// allocate outside a capture; the second captures it (mode: thread-local) and replays; later ones
// replay without calling it. With waits that are timed (stream_waits.h) the second captures it
// twice, as it is and with events around them, in the same memory; one replay in so many is of
// that. So whatever changes between runs must lie in device memory, and all
// memory that lives across runs must have been allocated outside. For CUDA, on a stream that is not
// the default one; other work, such as NCCL's, must be joined to that stream before `enqueue`
// returns. What `enqueue` throws passes through.
class StepGraph {
 public:
  explicit StepGraph(GraphPool& pool);
  ~StepGraph();
  StepGraph(StepGraph&&) noexcept;
  void Run(const std::function<void()>& enqueue);

 private:
  struct Captured;
  GraphPool* pool_;
  bool warm_ = false;
  std::unique_ptr<Captured> captured_;
};

// Calls `note` now; on a thread where a StepGraph is captured, right before each replay of it
// instead, the first one included. For what the host counts of work that replays repeat behind its
// back. `note` must not throw, and what it refers to must outlive the graph.
void WithEachRun(std::function<void()> note);

}  // namespace patchflow

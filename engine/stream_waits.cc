#include "engine/stream_waits.h"

#include <ATen/ATen.h>

#include <atomic>
#include <utility>

#ifdef PATCHFLOW_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <deque>
#include <list>
#endif

namespace patchflow {
namespace {

constexpr int64_t kReplaysToOneTimed = 16;
std::atomic<int64_t> replays_to_one_timed = kReplaysToOneTimed;

}  // namespace

void TimeOneReplayIn(int64_t replays) {
  TORCH_CHECK(replays >= 0, "one timed replay in ", replays, ": 0 or more are needed");
  replays_to_one_timed = replays;
}

int64_t ReplaysToOneTimed() { return replays_to_one_timed; }

int64_t ReplaySampler::Next() {
  if (++since_ < every_) return 0;
  const int64_t stands_for = first_ ? 1 : since_;
  first_ = false;
  since_ = 0;
  return stands_for;
}

#ifdef PATCHFLOW_CUDA

namespace {

class Event {
 public:
  explicit Event(unsigned flags) { C10_CUDA_CHECK(cudaEventCreateWithFlags(&event_, flags)); }
  ~Event() { C10_CUDA_IGNORE_ERROR(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void Record(unsigned flags = cudaEventRecordDefault) {
    C10_CUDA_CHECK(
        cudaEventRecordWithFlags(event_, c10::cuda::getCurrentCUDAStream().stream(), flags));
  }
  bool HasPassed() const {
    const cudaError_t state = cudaEventQuery(event_);
    if (state == cudaErrorNotReady) {
      C10_CUDA_IGNORE_ERROR(cudaGetLastError());
      return false;
    }
    C10_CUDA_CHECK(state);
    return true;
  }
  void Await() const { C10_CUDA_CHECK(cudaEventSynchronize(event_)); }
  std::chrono::nanoseconds Since(const Event& earlier) const {
    float ms = 0;
    C10_CUDA_CHECK(cudaEventElapsedTime(&ms, earlier.event_, event_));
    return std::chrono::nanoseconds(static_cast<int64_t>(1e6 * ms));
  }

 private:
  cudaEvent_t event_ = nullptr;
};

struct Span {
  explicit Span(WaitSink told) : sink(std::move(told)) {}
  Event begin{cudaEventDefault};
  Event end{cudaEventDefault};
  WaitSink sink;
};

bool IsCapturing() {
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
}

}  // namespace

struct CapturedWaits::State {
  Nodes nodes = Nodes::kNone;
  int64_t count = 0;
  std::list<Span> spans;
  Event replayed{cudaEventDisableTiming | cudaEventBlockingSync};
  bool told = true;  // Of the last replay.
};

namespace {

// What the device comes to in the order in which it stands here.
struct Untold {
  virtual ~Untold() = default;
  virtual const Event& Last() const = 0;
  virtual void Tell() = 0;
};

struct UntoldSpan final : Untold {
  explicit UntoldSpan(WaitSink sink) : span(std::move(sink)) {}
  const Event& Last() const override { return span.end; }
  void Tell() override { span.sink(span.end.Since(span.begin)); }
  Span span;
};

struct UntoldReplay final : Untold {
  UntoldReplay(std::shared_ptr<CapturedWaits::State> of, int64_t replays)
      : state(std::move(of)), stands_for(replays) {}
  const Event& Last() const override { return state->replayed; }
  void Tell() override {
    for (const Span& span : state->spans) span.sink(stands_for * span.end.Since(span.begin));
    state->told = true;
  }
  std::shared_ptr<CapturedWaits::State> state;
  int64_t stands_for;
};

constexpr size_t kManyUntold = 64;
thread_local std::deque<std::unique_ptr<Untold>> untold;

void TellFirst() {
  const std::unique_ptr<Untold> first = std::move(untold.front());
  untold.pop_front();
  first->Tell();
}

// Of the step that this thread captures.
thread_local CapturedWaits::State* captured = nullptr;

}  // namespace

void TimeWait(const std::function<void()>& wait, WaitSink sink) {
  if (captured != nullptr) {
    ++captured->count;
    if (captured->nodes == CapturedWaits::Nodes::kNone) return wait();
    Span& span = captured->spans.emplace_back(std::move(sink));
    span.begin.Record(cudaEventRecordExternal);
    wait();
    return span.end.Record(cudaEventRecordExternal);
  }
  if (ReplaysToOneTimed() == 0 || IsCapturing()) return wait();
  if (untold.size() >= kManyUntold) TellWaits();
  auto timed = std::make_unique<UntoldSpan>(std::move(sink));
  timed->span.begin.Record();
  wait();
  timed->span.end.Record();
  untold.push_back(std::move(timed));
}

void TellWaits() {
  while (!untold.empty() && untold.front()->Last().HasPassed()) TellFirst();
}

CapturedWaits::CapturedWaits() : state_(std::make_shared<State>()) {}
CapturedWaits::~CapturedWaits() = default;

void CapturedWaits::Capture(Nodes nodes, const std::function<void()>& enqueue) {
  state_->nodes = nodes;
  captured = state_.get();
  try {
    enqueue();
  } catch (...) {
    captured = nullptr;
    throw;
  }
  captured = nullptr;
}

int64_t CapturedWaits::count() const { return state_->count; }

void CapturedWaits::BeforeReplay() {
  while (!state_->told && !untold.empty()) {
    untold.front()->Last().Await();
    TellFirst();
  }
}

void CapturedWaits::AfterReplay(int64_t stands_for) {
  state_->replayed.Record();
  state_->told = false;
  untold.push_back(std::make_unique<UntoldReplay>(state_, stands_for));
}

#else

struct CapturedWaits::State {};

void TimeWait(const std::function<void()>& wait, WaitSink /*sink*/) { wait(); }

void TellWaits() {}

#endif

}  // namespace patchflow

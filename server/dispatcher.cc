#include "server/dispatcher.h"

#include <atomic>
#include <functional>

#include "absl/strings/str_cat.h"
#include "server/draining.h"
#include "server/errors.h"
#include "server/job.h"
#include "server/log.h"
#include "server/request_trace.h"

namespace patchflow {
namespace {

constexpr absl::Duration kPopWait = absl::Milliseconds(500);
constexpr absl::Duration kMaxBusy = absl::Seconds(30);
constexpr int kMaxLosses = 3;

enum class Verdict {
  kFinal,  // Running again would end the same way.
  kFinalAndWorkerEnds,
  kBusy,
  kLost,
};

Verdict Judge(const absl::Status& status) {
  const std::string why = ReasonOf(status);
  if (why == reason::kWorkerBusy) {
    return Verdict::kBusy;
  }
  if (why == reason::kNonFiniteOutput || why == reason::kGpuOutOfMemory) {
    return Verdict::kFinalAndWorkerEnds;
  }
  if (why.empty() || absl::IsUnavailable(status) || absl::IsInternal(status) ||
      absl::IsCancelled(status)) {
    return Verdict::kLost;
  }
  return Verdict::kFinal;
}

// Notes that a run begins at `group`; the trace context to hand on, empty without a trace.
std::string BeginRun(const Generation& generation, const Group& group) {
  RequestTrace* trace = generation.trace().get();
  return trace == nullptr
             ? ""
             : TraceparentOf(trace->BeginRun(group.config().name, generation.standing().attempt));
}

}  // namespace

Dispatcher::Dispatcher(Parts parts) : parts_(parts), thread_([this] { Run(); }) {}

Dispatcher::~Dispatcher() { thread_.join(); }

void Dispatcher::Run() {
  while (auto worker = parts_.group.WaitServing()) {
    auto generation = parts_.queue.Pop(worker->info->plan_digest(), kPopWait);
    if (generation == nullptr) {
      if (parts_.group.retiring() && parts_.queue.SizeOf(worker->info->plan_digest()) == 0) {
        parts_.group.SetDrained();
        return;
      }
      continue;
    }
    if (!parts_.group.Serving(worker->epoch)) {
      parts_.queue.PushAgain(std::move(generation));
      continue;
    }
    if (!generation->Start()) {
      continue;
    }
    if (generation->standing().attempt == 1) {
      parts_.metrics.queue_wait.at(generation->spec().priority)
          ->Observe(absl::ToDoubleSeconds(absl::FromChrono(Clock::now() - generation->created())));
    }
    RunGeneration(*worker, generation);
    parts_.group.SetIdle();
    if (generation->standing().state == v1::STATE_SUCCEEDED) {
      parts_.group.JobCompleted();
    }
  }
}

void Dispatcher::RunGeneration(const Incarnation& worker,
                               const std::shared_ptr<Generation>& generation) {
  absl::Duration pause = absl::Milliseconds(1);
  const auto busy_until = Clock::now() + ToClock(kMaxBusy);
  while (!generation->ended()) {
    const absl::Status status = RunJob(worker, generation);
    if (generation->ended() || (status.ok() && !parts_.group.stopped())) {
      continue;
    }
    const Verdict verdict = Judge(status);
    if (verdict != Verdict::kBusy && !parts_.group.stopped()) {
      parts_.metrics.ObserveJobFailure(status);
    }
    if (verdict == Verdict::kBusy && Clock::now() < busy_until &&
        parts_.group.Serving(worker.epoch)) {
      std::this_thread::sleep_for(ToClock(pause));
      pause = std::min(2 * pause, absl::Milliseconds(20));
      continue;
    }
    if (verdict == Verdict::kLost || verdict == Verdict::kBusy) {
      HandleLoss(worker, generation, status);
      return;
    }
    if (verdict == Verdict::kFinalAndWorkerEnds) {
      parts_.group.Complain(worker.epoch, ReasonOf(status));
    }
    generation->End(status);
  }
}

absl::Status Dispatcher::RunJob(const Incarnation& worker,
                                const std::shared_ptr<Generation>& generation) {
  worker::v1::ExecuteRequest request =
      MakeExecuteRequest(*generation, parts_.group.config().provenance_mark);
  request.set_traceparent(BeginRun(*generation, parts_.group));
  std::shared_ptr<ExecuteCall> call = worker.client->Execute(request);
  auto cancelled_at = std::make_shared<std::atomic<Clock::time_point>>();
  parts_.group.SetRunning(worker.epoch, generation, [call] { call->Abandon(); });
  generation->SetStopper([call, cancelled_at] {
    *cancelled_at = Clock::now();
    call->Cancel();
  });
  ImageCollector collector(*generation, parts_.costs, parts_.metrics);
  worker::v1::ExecuteResponse event;
  absl::Status broken;
  while (call->Read(event)) {
    parts_.group.NoteEvent();
    if (broken.ok()) {
      broken = collector.Take(event);
      if (!broken.ok()) {
        call->Cancel();
      }
    }
  }
  absl::Status status = call->Finish();
  generation->SetStopper(nullptr);
  if (!broken.ok()) {
    status = broken;
  } else if (status.ok() && !generation->ended()) {
    const auto missing = generation->MissingImages();
    if (!missing.empty() && missing.front() == request.image_indices(0)) {
      status = absl::InternalError("the call ended without the image that was asked for");
    }
  }
  if (const auto cancelled = cancelled_at->load(); cancelled != Clock::time_point{}) {
    parts_.metrics.cancel_running->Observe(
        absl::ToDoubleSeconds(absl::FromChrono(Clock::now() - cancelled)));
  }
  if (generation->trace() != nullptr) {
    generation->trace()->EndRun(status);
  }
  return status;
}

void Dispatcher::HandleLoss(const Incarnation& worker,
                            const std::shared_ptr<Generation>& generation,
                            const absl::Status& status) {
  if (parts_.group.stopped()) {
    generation->End(DrainedError());
    return;
  }
  parts_.group.Complain(worker.epoch, absl::StrCat("job failed: ", status.ToString()));
  const int losses = generation->RecordLoss();
  LogWarning("worker lost while it ran a job",
             {{"group", parts_.group.config().name},
              {"request_id", generation->spec().request_id},
              {"losses", losses},
              {"error", std::string(status.ToString(absl::StatusToStringMode::kWithNoExtraData))}});
  if (losses >= kMaxLosses) {
    parts_.registry.Poison(generation->spec().fingerprint);
    generation->End(PoisonError());
    return;
  }
  parts_.metrics.reruns->Increment();
  generation->Requeue();
  if (generation->trace() != nullptr) {
    generation->trace()->Requeued();
  }
  parts_.queue.PushAgain(generation);
  if (generation->ended()) {
    parts_.queue.Remove(*generation);
  }
}

}  // namespace patchflow

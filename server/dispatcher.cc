#include "server/dispatcher.h"

#include <utility>

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

// A worker died at it before, maybe of it: it runs with no other beside it, so that none but the
// one that kills its worker can come to the third loss.
bool IsSuspect(const Generation& generation) { return generation.standing().attempt > 1; }

}  // namespace

Dispatcher::Dispatcher(Parts parts)
    : parts_(parts), tails_([this] { RunTails(); }), thread_([this] { Run(); }) {}

Dispatcher::~Dispatcher() {
  thread_.join();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  tails_.join();
}

void Dispatcher::Run() {
  while (auto worker = parts_.group.WaitServing()) {
    auto generation = parts_.queue.Pop(worker->info->plan_digest(), kPopWait);
    if (generation == nullptr) {
      if (MayRetire(*worker)) {
        break;
      }
      continue;
    }
    if (IsSuspect(*generation)) {
      AwaitTail();
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
  }
  AwaitTail();
}

bool Dispatcher::MayRetire(const Incarnation& worker) {
  const std::string& plan = worker.info->plan_digest();
  if (!parts_.group.retiring() || parts_.queue.SizeOf(plan) > 0) {
    return false;
  }
  AwaitTail();
  if (parts_.queue.SizeOf(plan) > 0) {
    return false;  // The tail's worker was lost, and its generation is queued again.
  }
  parts_.group.SetDrained();
  return true;
}

void Dispatcher::RunGeneration(const Incarnation& worker,
                               const std::shared_ptr<Generation>& generation) {
  absl::Duration pause = absl::Milliseconds(1);
  const auto busy_until = Clock::now() + ToClock(kMaxBusy);
  while (!generation->ended()) {
    auto run = RunJob(worker, generation);
    if (run.job != nullptr) {
      BeginTail(worker, std::move(run.job));
      return;
    }
    if (generation->ended() || (run.status.ok() && !parts_.group.stopped())) {
      continue;
    }
    const Verdict verdict = Judge(run.status);
    if (verdict == Verdict::kBusy && Clock::now() < busy_until &&
        parts_.group.Serving(worker.epoch)) {
      std::this_thread::sleep_for(ToClock(pause));
      pause = std::min(2 * pause, absl::Milliseconds(20));
      continue;
    }
    Settle(worker, generation, run.status);
    break;
  }
  parts_.group.SetIdle();
  CountIfCompleted(*generation);
}

Dispatcher::Outcome Dispatcher::RunJob(const Incarnation& worker,
                                       const std::shared_ptr<Generation>& generation) {
  worker::v1::ExecuteRequest request =
      MakeExecuteRequest(*generation, parts_.group.config().provenance_mark);
  request.set_traceparent(BeginRun(*generation, parts_.group));
  auto job =
      std::make_unique<JobRun>(*worker.client, request, generation, parts_.costs, parts_.metrics);
  parts_.group.SetRunning(worker.epoch, generation, job->abort());
  bool hinted = worker.info->group_ranks() != 1;  // Several share the text encoder.
  const auto note = [&](const worker::v1::ExecuteResponse& event) {
    parts_.group.NoteEvent();
    hinted = hinted || (event.step().phase() == worker::v1::JOB_PHASE_DENOISE && HintNext(worker));
  };
  while (job->Read(note)) {
    if (job->asks_for_all() && !IsSuspect(*generation)) {
      return {.job = std::move(job), .status = absl::OkStatus()};
    }
  }
  return {.job = nullptr, .status = job->Finish()};
}

bool Dispatcher::HintNext(const Incarnation& worker) {
  const auto next = parts_.queue.Peek(worker.info->plan_digest());
  if (next == nullptr) {
    return false;
  }
  worker::v1::PrepareRequest hint;
  hint.add_texts(next->spec().prompt);
  if (next->spec().params().guidance_scale() != 1) {
    hint.add_texts(next->spec().negative_prompt);
  }
  worker.client->Prepare(hint);
  return true;
}

void Dispatcher::BeginTail(const Incarnation& worker, std::unique_ptr<JobRun> job) {
  AwaitTail();
  parts_.group.SetRanksFree();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    tail_ = Tail{worker, std::move(job)};
  }
  changed_.notify_all();
}

void Dispatcher::RunTails() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || tail_.has_value(); });
    if (!tail_.has_value()) {
      return;
    }
    lock.unlock();
    RunTail(tail_->worker, *tail_->job);
    lock.lock();
    tail_.reset();
    changed_.notify_all();
  }
}

void Dispatcher::RunTail(const Incarnation& worker, JobRun& job) {
  while (job.Read([this](const auto& /*event*/) { parts_.group.NoteTailEvent(); })) {
  }
  absl::Status status = job.Finish();
  if (!job.generation()->ended()) {
    if (status.ok()) {
      status = absl::InternalError("the call ended without all images that were asked for");
    }
    Settle(worker, job.generation(), status);
  }
  parts_.group.SetTailEnded();
  CountIfCompleted(*job.generation());
}

void Dispatcher::AwaitTail() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return !tail_.has_value(); });
}

void Dispatcher::CountIfCompleted(const Generation& generation) {
  if (generation.standing().state == v1::STATE_SUCCEEDED) {
    parts_.group.JobCompleted();
  }
}

void Dispatcher::Settle(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
                        const absl::Status& status) {
  const Verdict verdict = Judge(status);
  if (verdict != Verdict::kBusy && !parts_.group.stopped()) {
    parts_.metrics.ObserveJobFailure(status);
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

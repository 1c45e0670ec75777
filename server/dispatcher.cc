#include "server/dispatcher.h"

#include <algorithm>
#include <atomic>
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
constexpr int kMaxLosses = 3;
// To the worker, and until it has begun to encode.
constexpr absl::Duration kWayOfAHint = absl::Milliseconds(2);

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

int64_t PixelsOf(const Generation& generation) {
  const v1::EffectiveParams& params = generation.spec().params();
  return int64_t{params.width()} * params.height();
}

}  // namespace

Dispatcher::Dispatcher(Parts parts)
    : parts_(parts),
      readers_(2 * parts.group.config().batch_size),  // A batch and its tail.
      thread_([this] { Run(); }) {}

Dispatcher::~Dispatcher() { thread_.join(); }

void Dispatcher::Run() {
  const int rows = parts_.group.config().batch_size;
  while (auto worker = parts_.group.WaitServing()) {
    Batch batch = parts_.queue.PopBatch(worker->info->plan_digest(), rows, kPopWait);
    if (batch.empty()) {
      if (MayRetire(*worker)) {
        break;
      }
      continue;
    }
    if (batch.front()->suspect()) {
      AwaitTail();
    }
    if (!parts_.group.Serving(worker->epoch)) {
      for (auto& generation : batch) {
        parts_.queue.PushAgain(std::move(generation));
      }
      continue;
    }
    StartAll(batch);
    RunBatch(*worker, std::move(batch));
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
    return false;  // The tail's worker was lost, and its generations are queued again.
  }
  parts_.group.SetDrained();
  return true;
}

void Dispatcher::StartAll(Batch& batch) {
  const auto images_of = [](const auto& generation) {
    return static_cast<double>(generation->MissingImages().size());
  };
  double images = 0;
  for (const auto& generation : batch) {
    images += images_of(generation);
  }
  std::erase_if(batch, [&](const auto& generation) {
    const bool was_never_here = generation->run_time() == absl::ZeroDuration();
    const bool started = generation->Start(images_of(generation) / std::max(1.0, images));
    if (started && was_never_here) {
      parts_.metrics.queue_wait.at(generation->spec().priority)
          ->Observe(absl::ToDoubleSeconds(absl::FromChrono(Clock::now() - generation->created())));
    }
    return !started;
  });
}

void Dispatcher::RunBatch(const Incarnation& worker, Batch batch) {
  absl::Duration pause = absl::Milliseconds(1);
  const auto busy_until = Clock::now() + ToClock(parts_.max_busy);
  const auto give_back = [this](const std::shared_ptr<Generation>& generation) {
    parts_.group.SetEnded(*generation);
    generation->PutBack();
    QueueAgain(generation);
  };
  while (!batch.empty()) {
    const bool alone = batch.size() == 1;
    const std::shared_ptr<SharedRun> run = Ask(worker, batch);
    const SharedRun::Rest rest = run->AwaitRanks(give_back);
    CountPasses(rest.images_taken);
    if (run->HasTails()) {
      for (const auto& generation : rest.generations) {
        parts_.group.SetEnded(*generation);
      }
      BeginTail(run);
    }
    const bool go_on =
        !parts_.group.stopped() &&
        (!rest.all_busy || (Clock::now() < busy_until && parts_.group.Serving(worker.epoch)));
    batch.clear();
    const bool give_up = rest.all_busy && !go_on && !parts_.group.stopped();
    if (give_up) {
      parts_.group.Complain(worker.epoch, "the worker took no job for too long");
    }
    for (const auto& generation : rest.generations) {
      if (go_on && !generation->ended()) {
        batch.push_back(generation);
      } else if (give_up && !generation->ended()) {
        give_back(generation);  // It was never begun: whoever keeps the worker busy is why.
      } else {
        EndRun(worker, generation, absl::OkStatus(), alone);
      }
    }
    if (rest.all_busy && go_on) {
      std::this_thread::sleep_for(ToClock(pause));
      pause = std::min(2 * pause, absl::Milliseconds(20));
    }
  }
}

std::shared_ptr<SharedRun> Dispatcher::Ask(const Incarnation& worker, const Batch& batch) {
  const GroupConfig& config = parts_.group.config();
  std::vector<worker::v1::ExecuteRequest> requests;
  for (const auto& generation : batch) {
    requests.push_back(MakeExecuteRequest(*generation));
    requests.back().set_traceparent(BeginRun(*generation, parts_.group));
  }
  std::vector<std::unique_ptr<JobRun>> jobs;
  std::vector<Group::Work> works;
  for (size_t i = 0; i < batch.size(); ++i) {  // Close together: a worker waits but a moment.
    jobs.push_back(std::make_unique<JobRun>(*worker.client, requests[i], batch[i],
                                            config.batch_size, parts_.costs, parts_.metrics,
                                            parts_.group.cancels()));
    works.push_back({batch[i], jobs.back()->abort()});
  }
  parts_.group.SetRunning(worker.epoch, std::move(works));
  SharedRun::Hooks hooks;
  const auto hinted = std::make_shared<std::atomic<bool>>(!IsWorthAHint(worker, *batch.front()));
  hooks.on_event = [this, worker, hinted](const worker::v1::ExecuteResponse& event, bool is_tail) {
    is_tail ? parts_.group.NoteTailEvent() : parts_.group.NoteEvent();
    if (event.step().phase() == worker::v1::JOB_PHASE_DENOISE && !hinted->exchange(true)) {
      *hinted = HintNext(worker);
    }
  };
  hooks.on_end = [this, worker, alone = batch.size() == 1](const auto& generation,
                                                           const absl::Status& status) {
    EndRun(worker, generation, status, alone);
  };
  return SharedRun::Begin(std::move(jobs), !batch.front()->suspect(), std::move(hooks), readers_);
}

void Dispatcher::CountPasses(int images) const {
  const int rows = parts_.group.config().batch_size;
  for (int left = images; left > 0; left -= rows) {
    parts_.metrics.batch_size->Observe(std::min(left, rows));
  }
}

bool Dispatcher::IsWorthAHint(const Incarnation& worker, const Generation& generation) const {
  const v1::EffectiveParams& params = generation.spec().params();
  const auto expected = parts_.costs.Expect(worker.info->plan_digest(), params);
  return !expected.has_value() || params.steps() * expected->step > kWayOfAHint;
}

bool Dispatcher::HintNext(const Incarnation& worker) {
  const Batch next =
      parts_.queue.PeekBatch(worker.info->plan_digest(), parts_.group.config().batch_size);
  worker::v1::PrepareRequest hint;
  const auto add = [&hint](const std::string& text) {
    if (std::find(hint.texts().begin(), hint.texts().end(), text) == hint.texts().end()) {
      hint.add_texts(text);
    }
  };
  for (const auto& generation : next) {
    add(generation->spec().prompt);
    if (generation->spec().params().guidance_scale() != 1) {
      add(generation->spec().negative_prompt);
    }
  }
  if (!next.empty()) {
    worker.client->Prepare(hint);
  }
  return !next.empty();
}

void Dispatcher::BeginTail(std::shared_ptr<SharedRun> run) {
  AwaitTail();
  parts_.group.SetRanksFree();
  run->LeaveRanks();
  tail_ = std::move(run);
}

void Dispatcher::AwaitTail() {
  if (tail_ != nullptr) {
    tail_->AwaitEnd();
    tail_ = nullptr;
  }
}

void Dispatcher::EndRun(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
                        const absl::Status& status, bool alone) {
  if (!generation->ended()) {
    Settle(worker, generation, status, alone);
  }
  parts_.group.SetEnded(*generation);
  if (generation->standing().state == v1::STATE_SUCCEEDED) {
    parts_.group.JobCompleted();
    parts_.costs.memory().Fitted(worker.info->plan_digest(), PixelsOf(*generation));
  }
}

void Dispatcher::Settle(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
                        const absl::Status& status, bool alone) {
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
  if (alone) {
    if (ReasonOf(status) == reason::kGpuOutOfMemory) {
      parts_.costs.memory().RanOut(worker.info->plan_digest(), PixelsOf(*generation));
    }
    generation->End(status);
    return;
  }
  generation->Requeue();  // Maybe another one of the pass is why.
  QueueAgain(generation);
}

void Dispatcher::HandleLoss(const Incarnation& worker,
                            const std::shared_ptr<Generation>& generation,
                            const absl::Status& status) {
  if (parts_.group.stopped()) {
    generation->End(parts_.group.retiring() ? ReplacedError() : DrainedError());
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
  QueueAgain(generation);
}

void Dispatcher::QueueAgain(const std::shared_ptr<Generation>& generation) {
  if (generation->trace() != nullptr) {
    generation->trace()->Requeued();
  }
  parts_.queue.PushAgain(generation);
  if (generation->ended()) {
    parts_.queue.Remove(*generation);
  }
}

}  // namespace patchflow

#include "server/admission.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/draining.h"
#include "server/errors.h"
#include "server/log.h"
#include "server/random.h"
#include "server/sha256.h"
#include "server/validate.h"

namespace patchflow {
namespace {

constexpr absl::Duration kUnknownWait = absl::Seconds(1);
constexpr absl::Duration kLeastWait = absl::Milliseconds(50);

// Of what makes the bytes, as sent: not of the id, the stream's options or the hints.
std::string Fingerprint(const v1::GenerateImagesRequest& request) {
  v1::GenerateImagesRequest content;
  content.set_model(request.model());
  *content.mutable_prompt() = request.prompt();
  *content.mutable_image() = request.image();
  *content.mutable_sampling() = request.sampling();
  *content.mutable_output() = request.output();
  return Sha256(content.SerializeAsString());
}

std::optional<Clock::time_point> SoonerDeadline(std::optional<Clock::time_point> of_call,
                                                const v1::SchedulingHints& hints) {
  if (!hints.has_timeout()) {
    return of_call;
  }
  const auto own = Clock::now() + ToClock(FromProto(hints.timeout()));
  return std::min(own, of_call.value_or(own));
}

bool Keeps(const v1::GenerateImagesRequest& request) {
  return request.scheduling().on_disconnect() == v1::DISCONNECT_POLICY_DETACH;
}

}  // namespace

Admission::Admission(const Parts& parts, const Limits& limits)
    : models_(parts.models),
      registry_(parts.registry),
      timer_(parts.timer),
      audit_(parts.audit),
      store_(parts.store),
      tracer_(parts.tracer),
      limits_(limits),
      server_instance_(RandomUuid()),
      rates_(limits.requests_per_second, limits.burst) {}

bool Admission::WaitsForDisk(const v1::GenerateImagesRequest& request) const {
  return store_ != nullptr && Keeps(request);
}

absl::StatusOr<ServedModel*> Admission::FindModel(const std::string& name,
                                                  const std::string& field) const {
  if (name.empty() && models_.size() == 1) {
    return models_.begin()->second.get();
  }
  std::vector<std::string> names;
  for (const auto& [known, model] : models_) {
    names.push_back(known);
  }
  if (name.empty()) {
    return FieldErrors(reason::kInvalidRequest,
                       {{field, absl::StrCat("is required, this server has several: ",
                                             absl::StrJoin(names, ", "))}});
  }
  auto found = models_.find(name);
  if (found == models_.end()) {
    const std::string shown = CutText(name, 64);
    return WithResource(
        MakeError(absl::StatusCode::kNotFound, reason::kModelNotFound,
                  absl::StrCat("no model '", shown, "'; there is ", absl::StrJoin(names, ", ")),
                  {{"model", shown}}),
        "patchflow.v1.Model", shown);
  }
  return found->second.get();
}

absl::Status Admission::CheckRights(const v1::GenerateImagesRequest& request,
                                    const Caller& caller) {
  if (draining_) {
    return DrainingError();
  }
  if (absl::Status status = audit_.Ready(); !status.ok()) {
    return status;
  }
  if (request.scheduling().priority() == v1::PRIORITY_HIGH && !caller.identity.high_priority) {
    return MakeError(absl::StatusCode::kPermissionDenied, reason::kPermissionDenied,
                     "the token has no right to scheduling.priority HIGH",
                     {{"right", "high_priority"}});
  }
  return rates_.Take(caller.identity.client);
}

absl::StatusOr<Admission::Draft> Admission::Prepare(const v1::GenerateImagesRequest& request,
                                                    const Caller& caller) {
  if (absl::Status status = CheckRights(request, caller); !status.ok()) {
    return status;
  }
  auto model = FindModel(request.model(), "model");
  if (!model.ok()) {
    return model.status();
  }
  std::shared_ptr<const void> entered = (*model)->Enter();
  auto plan = (*model)->ChoosePlan();
  if (!plan.ok()) {
    return plan.status();
  }
  auto params = Validate(request, (*model)->Describe(**plan));
  if (!params.ok()) {
    return params.status();
  }
  if (caller.unary) {
    if (absl::Status fits = ValidateUnarySize(*params, limits_.max_unary_bytes); !fits.ok()) {
      return fits;
    }
  }
  Draft draft{*model, *std::move(plan), {}};
  draft.entered = std::move(entered);
  draft.trace = caller.trace;
  params->set_layout(draft.plan->layout());
  if (!request.sampling().has_seed()) {
    params->set_seed(RandomSeed());
    draft.seed_drawn = true;
  }
  GenerationSpec& spec = draft.spec;
  spec.request_id = request.request_id().empty() ? RandomUuid() : request.request_id();
  spec.owner = caller.identity;
  spec.deadline = SoonerDeadline(caller.deadline, request.scheduling());
  spec.fingerprint = Fingerprint(request);
  spec.prompt = request.prompt().text();
  spec.negative_prompt = request.prompt().negative_text();
  spec.embed_metadata = request.output().embed_metadata();
  spec.preview_every_steps = request.stream().preview_every_steps();
  spec.preview_max_edge = request.stream().preview_max_edge();
  if (request.scheduling().priority() != v1::PRIORITY_UNSPECIFIED) {
    spec.priority = request.scheduling().priority();
  }
  spec.ranks = std::max(1, draft.plan->ranks());
  spec.accepted.set_plan_digest(draft.plan->plan_digest());
  spec.accepted.set_server_instance(server_instance_);
  spec.estimate = (*model)->costs().Expect(draft.plan->plan_digest(), *params,
                                           std::max(1, draft.plan->batch_size()));
  v1::Cost& cost = *spec.accepted.mutable_cost();
  cost.set_steps(int64_t{params->steps()} * params->count());
  cost.set_pixels(int64_t{params->width()} * params->height() * params->count());
  if (spec.estimate.has_value()) {
    const absl::Duration run = spec.estimate->Run(*params);
    *spec.accepted.mutable_estimated_run() = ToProto(run);
    *cost.mutable_gpu_time() = ToProto(run * spec.ranks);
  }
  *spec.accepted.mutable_effective() = *std::move(params);
  return draft;
}

void Admission::Place(const ServedModel& model, GenerationSpec& spec,
                      const std::vector<std::shared_ptr<Generation>>& ahead) {
  spec.accepted.set_queue_position(static_cast<int>(ahead.size()));
  if (auto wait = model.EstimateWait(spec.accepted.plan_digest(), ahead)) {
    *spec.accepted.mutable_estimated_wait() = ToProto(*wait);
  }
}

absl::Status Admission::CheckDeadline(ServedModel& model, const GenerationSpec& spec,
                                      const std::vector<std::shared_ptr<Generation>>& ahead,
                                      std::optional<Clock::time_point> deadline) const {
  if (!deadline.has_value()) {
    return absl::OkStatus();
  }
  const absl::Duration left = absl::FromChrono(*deadline - Clock::now());
  const std::string& plan = spec.accepted.plan_digest();
  auto best = model.costs().ExpectAtBest(plan, spec.params(), model.BatchSizeOf(plan));
  absl::Duration needed;
  if (best.has_value()) {
    needed = best->Run(spec.params()) + model.BestWait(plan, spec.params(), ahead);
  }
  if (left > needed) {
    return absl::OkStatus();
  }
  const int64_t left_ms = std::max<int64_t>(0, absl::ToInt64Milliseconds(left));
  const int64_t needed_ms = absl::ToInt64Milliseconds(needed);
  return MakeError(
      absl::StatusCode::kDeadlineExceeded, reason::kDeadlineUnmeetable,
      absl::StrCat("the deadline is ", left_ms, " ms away; at best ", needed_ms, " ms are needed"),
      {{"remaining_ms", absl::StrCat(left_ms)}, {"needed_ms", absl::StrCat(needed_ms)}});
}

absl::StatusOr<GenerationSpec> Admission::Check(const v1::GenerateImagesRequest& request,
                                                const Caller& caller) {
  auto draft = Prepare(request, caller);
  if (!draft.ok()) {
    return draft.status();
  }
  auto probe = std::make_shared<Generation>(draft->spec, [](Generation&) {});
  Place(*draft->model, draft->spec, draft->model->queue().Ahead(probe));
  return std::move(draft->spec);
}

absl::StatusOr<std::shared_ptr<Generation>> Admission::Admit(
    const v1::GenerateImagesRequest& request, const Caller& caller) {
  auto draft = Prepare(request, caller);
  if (!draft.ok()) {
    return draft.status();
  }
  ServedModel& model = *draft->model;
  auto probe = std::make_shared<Generation>(draft->spec, [](Generation&) {});
  const auto ahead = model.queue().Ahead(probe);
  Place(model, draft->spec, ahead);
  const bool keep = Keeps(request);
  const GenerationKey key = draft->spec.key();
  while (true) {
    auto claimed = registry_.Claim(key, draft->spec.fingerprint, [&](std::optional<uint64_t> seed) {
      return Make(*draft, seed, request.scheduling());
    });
    if (!claimed.ok()) {
      return claimed.status();
    }
    std::shared_ptr<Generation> generation = std::move(claimed->generation);
    const bool joined = generation->Subscribe(caller.subscriber, keep);
    if (!claimed->fresh) {
      const Standing standing = generation->standing();
      if (joined && keep) {
        if (absl::Status status = Keep(generation, request.scheduling()); !status.ok()) {
          generation->Unsubscribe(caller.subscriber.get(), status);
          return status;
        }
      }
      if (joined || !Registry::RunsAnew(standing.status)) {
        return generation;
      }
      continue;  // It ended between the claim and now, in a way that begins anew.
    }
    const absl::Status status = Enqueue(*draft, generation, request, caller);
    if (!status.ok()) {
      generation->End(status);
      registry_.Forget(*generation);
      return status;
    }
    if (generation->ended()) {
      model.queue().Remove(*generation);
    }
    model.metrics().requested_steps->Observe(draft->spec.params().steps());
    model.metrics().requested_megapixels->Observe(
        static_cast<double>(draft->spec.accepted.cost().pixels()) / 1e6);
    return generation;
  }
}

absl::Status Admission::Enqueue(const Draft& draft, const std::shared_ptr<Generation>& generation,
                                const v1::GenerateImagesRequest& request, const Caller& caller) {
  ServedModel& model = *draft.model;
  const auto ahead = model.queue().Ahead(generation);
  absl::Status status = CheckDeadline(model, draft.spec, ahead, caller.deadline);
  if (!status.ok()) {
    return status;
  }
  const bool keep = Keeps(request);
  if (keep) {
    status = Keep(generation, request.scheduling());
  }
  if (status.ok()) {
    status = model.queue().Push(generation);
    if (!status.ok() && keep && store_ != nullptr) {
      store_->Drop(generation->spec().key());
    }
  }
  if (!status.ok()) {
    const auto wait = model.EstimateWait(draft.spec.accepted.plan_digest(), ahead);
    status = WithRetry(status, Jittered(std::max(kLeastWait, wait.value_or(kUnknownWait))));
  }
  return status;
}

absl::Status Admission::Keep(const std::shared_ptr<Generation>& generation,
                             const v1::SchedulingHints& hints) {
  if (store_ == nullptr) {
    return absl::OkStatus();
  }
  const absl::Duration timeout =
      hints.has_timeout() ? FromProto(hints.timeout()) : absl::InfiniteDuration();
  if (!store_->Accept(generation, timeout).ok()) {
    return WithRetry(
        MakeError(absl::StatusCode::kUnavailable, reason::kStoreFailed,
                  "the generation cannot be stored, so it would not be safe to detach from it"),
        Jittered(absl::Seconds(1)));
  }
  store_->Follow(generation);
  return absl::OkStatus();
}

void Admission::Restore(StoredGeneration stored) {
  auto found = models_.find(stored.spec.params().model());
  ServedModel* model = found == models_.end() ? nullptr : found->second.get();
  std::optional<absl::Duration> timeout;
  if (stored.timeout < absl::InfiniteDuration()) {
    timeout = std::max(absl::ZeroDuration(), stored.create_time + stored.timeout - absl::Now());
  }
  const GenerationKey key = stored.spec.key();
  const std::string fingerprint = stored.spec.fingerprint;
  const std::string model_name = stored.spec.params().model();
  auto claimed = registry_.Claim(key, fingerprint, [&](std::optional<uint64_t>) {
    return MakeOf(model, std::move(stored.spec), stored.create_time, timeout);
  });
  if (!claimed.ok() || !claimed->fresh) {
    return;
  }
  Generation& generation = *claimed->generation;
  generation.RestoreImages(std::move(stored.images));
  store_->Follow(claimed->generation);
  if (generation.MissingImages().empty()) {
    generation.End(absl::OkStatus());
  } else if (model == nullptr) {
    generation.End(MakeError(absl::StatusCode::kNotFound, reason::kModelNotFound,
                             absl::StrCat("model ", model_name, " is not served any more"),
                             {{"model", model_name}}));
  } else {
    model->queue().PushAgain(claimed->generation);
    if (generation.ended()) {
      model->queue().Remove(generation);
    }
  }
}

std::shared_ptr<Generation> Admission::Make(const Draft& draft, std::optional<uint64_t> seed,
                                            const v1::SchedulingHints& hints) {
  GenerationSpec spec = draft.spec;
  if (seed.has_value() && draft.seed_drawn) {
    spec.accepted.mutable_effective()->set_seed(*seed);
  }
  std::optional<absl::Duration> timeout;
  if (hints.has_timeout()) {
    timeout = FromProto(hints.timeout());
  }
  return MakeOf(draft.model, std::move(spec), absl::Now(), timeout, draft.trace);
}

std::shared_ptr<Generation> Admission::MakeOf(ServedModel* model, GenerationSpec spec,
                                              absl::Time create_time,
                                              std::optional<absl::Duration> timeout,
                                              const TraceOrigin& trace) {
  auto timer = std::make_shared<std::atomic<Timer::Id>>(0);
  auto generation = std::make_shared<Generation>(
      std::move(spec),
      [this, model, timer](Generation& g) {
        timer_.Cancel(*timer);
        OnEnd(model, g);
      },
      create_time);
  if (tracer_ != nullptr) {
    generation->SetTrace(tracer_->Begin(generation->spec(), trace));
  }
  if (timeout.has_value()) {
    *timer = timer_.After(*timeout, [weak = std::weak_ptr<Generation>(generation)] {
      if (auto alive = weak.lock()) {
        alive->End(alive->DeadlineError());
      }
    });
  }
  return generation;
}

void Admission::OnEnd(ServedModel* model, Generation& generation) {
  const bool was_queued = model != nullptr && model->queue().Remove(generation);
  registry_.Ended(generation);
  const Standing standing = generation.standing();
  if (model != nullptr) {
    model->metrics().ObserveCancellation(standing.status);
  }
  if (was_queued && absl::IsCancelled(standing.status)) {
    model->metrics().cancel_queued->Observe(
        absl::ToDoubleSeconds(absl::Now() - generation.end_time()));
  }
  const std::string why = ReasonOf(standing.status);
  if (why == reason::kQueueFull || why == reason::kDeadlineUnmeetable) {
    if (tracer_ != nullptr) {
      tracer_->Forget(generation.trace());
    }
    return;  // It was never accepted.
  }
  if (tracer_ != nullptr) {
    tracer_->Ended(generation.trace(), standing.status);
  }
  audit_.Ended(generation);
  const GenerationSpec& spec = generation.spec();
  const v1::EffectiveParams& params = spec.params();
  LogInfo(
      "generation ended",
      {{"request_id", spec.request_id},
       {"identity", spec.owner.name},
       {"model", params.model()},
       {"state", v1::State_Name(standing.state)},
       {"reason", why},
       {"width", params.width()},
       {"height", params.height()},
       {"steps", params.steps()},
       {"count", params.count()},
       {"images_done", standing.images_done},
       {"attempts", standing.attempt},
       {"seconds", absl::ToDoubleSeconds(absl::FromChrono(Clock::now() - generation.created()))},
       {"prompt_bytes", static_cast<int64_t>(spec.prompt.size())}});
  if (LogsPrompts()) {
    LogInfo("prompt", {{"request_id", spec.request_id},
                       {"prompt", spec.prompt},
                       {"negative_prompt", spec.negative_prompt}});
  }
}

}  // namespace patchflow

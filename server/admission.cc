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
#include "server/version.h"

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

bool Keeps(const v1::GenerateImagesRequest& request) {
  return request.scheduling().on_disconnect() == v1::DISCONNECT_POLICY_DETACH;
}

// As long as the request's `timeout` lets its caller hold the generation.
Clock::time_point Until(const v1::GenerateImagesRequest& request) {
  const v1::SchedulingHints& hints = request.scheduling();
  return hints.has_timeout() ? Clock::now() + ToClock(FromProto(hints.timeout()))
                             : Holders::kForever;
}

// By when the request is of use: the end of the call is none for one that detaches.
std::optional<Clock::time_point> DeadlineOf(const v1::GenerateImagesRequest& request,
                                            std::optional<Clock::time_point> of_call) {
  const Clock::time_point until = std::min(
      Until(request), Keeps(request) ? Holders::kForever : of_call.value_or(Holders::kForever));
  return until == Holders::kForever ? std::nullopt : std::optional(until);
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
  if (draining_) {
    return DrainingError();
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
  spec.deadline = DeadlineOf(request, caller.deadline);
  spec.fingerprint = Fingerprint(request);
  spec.prompt = request.prompt().text();
  spec.negative_prompt = request.prompt().negative_text();
  spec.embed_metadata = request.output().embed_metadata();
  spec.software = SoftwareName();
  spec.provenance_mark = (*model)->marks_provenance();
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
                                      const std::vector<std::shared_ptr<Generation>>& ahead) {
  if (!spec.deadline.has_value()) {
    return absl::OkStatus();
  }
  const absl::Duration left = absl::FromChrono(*spec.deadline - Clock::now());
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
  if (draining_) {
    return DrainingError();
  }
  if (absl::Status status = CheckRights(request, caller); !status.ok()) {
    return status;
  }
  auto draft = Prepare(request, caller);
  if (!draft.ok()) {
    return draft.status();
  }
  auto probe = std::make_shared<Generation>(draft->spec, [](Generation&) {});
  Place(*draft->model, draft->spec, draft->model->queue().Ahead(probe));
  return std::move(draft->spec);
}

absl::StatusOr<std::shared_ptr<Generation>> Admission::FindToJoin(
    const v1::GenerateImagesRequest& request, const Caller& caller) {
  if (request.request_id().empty() || !ValidateRequestId(request.request_id(), true).ok()) {
    return nullptr;  // Prepare() tells what else is wrong.
  }
  auto known = registry_.Known({caller.identity.name, request.request_id()});
  if (!known.ok() || *known == nullptr) {
    return known;
  }
  const Generation& generation = **known;
  if (generation.spec().fingerprint != Fingerprint(request)) {
    return ConflictError(request.request_id());
  }
  absl::Status status = ValidateJoin(request);
  if (status.ok() && caller.unary) {
    status = ValidateUnarySize(generation.spec().params(), limits_.max_unary_bytes);
  }
  if (!status.ok()) {
    return status;
  }
  return Join(*known, request, caller);
}

absl::StatusOr<std::shared_ptr<Generation>> Admission::Join(
    const std::shared_ptr<Generation>& generation, const v1::GenerateImagesRequest& request,
    const Caller& caller) {
  const Clock::time_point until = Until(request);
  if (!generation->Subscribe(caller.subscriber, until)) {
    return Registry::RunsAnew(generation->standing().status) ? nullptr : generation;
  }
  if (Keeps(request)) {
    if (absl::Status status = Keep(generation, until); !status.ok()) {
      generation->Unsubscribe(caller.subscriber.get(), status);
      return status;
    }
    Detach(generation, until);
  }
  return generation;
}

absl::StatusOr<std::shared_ptr<Generation>> Admission::Admit(
    const v1::GenerateImagesRequest& request, const Caller& caller) {
  if (draining_ && request.request_id().empty()) {
    return DrainingError();
  }
  if (absl::Status status = CheckRights(request, caller); !status.ok()) {
    return status;
  }
  auto found = FindToJoin(request, caller);
  if (!found.ok() || *found != nullptr) {
    return found;
  }
  auto draft = Prepare(request, caller);
  if (!draft.ok()) {
    return draft.status();
  }
  ServedModel& model = *draft->model;
  auto probe = std::make_shared<Generation>(draft->spec, [](Generation&) {});
  Place(model, draft->spec, model.queue().Ahead(probe));
  const Clock::time_point until = Until(request);
  while (true) {
    auto claimed = registry_.Claim(
        draft->spec.key(), draft->spec.fingerprint, [&](std::optional<uint64_t> seed) {
          auto made = Make(*draft, seed);
          made->Subscribe(caller.subscriber, until);  // Before others, who may leave at once.
          return made;
        });
    if (!claimed.ok()) {
      return claimed.status();
    }
    const std::shared_ptr<Generation> generation = std::move(claimed->generation);
    if (!claimed->fresh) {
      auto joined = Join(generation, request, caller);
      if (!joined.ok() || *joined != nullptr) {
        return joined;
      }
      continue;  // It ended between the claim and now, in a way that begins anew.
    }
    if (absl::Status status = Enqueue(*draft, generation, request, until); !status.ok()) {
      generation->Refuse(status);
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
                                const v1::GenerateImagesRequest& request, Clock::time_point until) {
  ServedModel& model = *draft.model;
  const auto ahead = model.queue().Ahead(generation);
  absl::Status status = CheckDeadline(model, draft.spec, ahead);
  if (status.ok()) {
    const v1::EffectiveParams& params = draft.spec.params();
    status = model.costs().memory().Check(draft.spec.accepted.plan_digest(), params.width(),
                                          params.height());
  }
  if (!status.ok()) {
    return status;
  }
  const bool keep = Keeps(request);
  if (keep) {
    status = Keep(generation, until);
  }
  if (status.ok()) {
    status = model.queue().Push(generation);
    if (!status.ok() && keep && store_ != nullptr) {
      store_->Drop(generation->spec().key());
    }
  }
  if (!status.ok()) {
    const auto wait = model.EstimateWait(draft.spec.accepted.plan_digest(), ahead);
    return WithRetry(status, Jittered(std::max(kLeastWait, wait.value_or(kUnknownWait))));
  }
  if (keep) {
    Detach(generation, until);
  }
  return absl::OkStatus();
}

std::shared_ptr<Generation> Admission::Make(const Draft& draft, std::optional<uint64_t> seed) {
  GenerationSpec spec = draft.spec;
  if (seed.has_value() && draft.seed_drawn) {
    spec.accepted.mutable_effective()->set_seed(*seed);
  }
  return MakeOf(draft.model, std::move(spec), absl::Now(), draft.trace);
}

std::shared_ptr<Generation> Admission::MakeOf(ServedModel* model, GenerationSpec spec,
                                              absl::Time create_time, const TraceOrigin& trace) {
  auto generation = std::make_shared<Generation>(
      std::move(spec), [this, model](Generation& g) { OnEnd(model, g); }, create_time);
  if (tracer_ != nullptr) {
    generation->SetTrace(tracer_->Begin(generation->spec(), trace));
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
  if (generation.refused()) {
    if (tracer_ != nullptr) {
      tracer_->Forget(generation.trace());
    }
    return;
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

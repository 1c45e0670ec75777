#include "server/admission.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/errors.h"
#include "server/log.h"
#include "server/random.h"
#include "server/sha256.h"
#include "server/validate.h"

namespace patchflow {
namespace {

constexpr absl::Duration kUnknownWait = absl::Seconds(1);
constexpr absl::Duration kLeastWait = absl::Milliseconds(50);
constexpr double kJitter = 0.2;

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

absl::Duration WithJitter(absl::Duration delay) {
  return delay * RandomBetween(1 - kJitter, 1 + kJitter);
}

absl::Status DrainingError() {
  return WithRetry(
      MakeError(absl::StatusCode::kUnavailable, reason::kDraining, "the server is shutting down"),
      absl::Seconds(1));
}

}  // namespace

Admission::Admission(Models& models, Registry& registry, Timer& timer, const Limits& limits)
    : models_(models),
      registry_(registry),
      timer_(timer),
      limits_(limits),
      server_instance_(RandomUuid()) {}

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

absl::StatusOr<Admission::Draft> Admission::Prepare(const v1::GenerateImagesRequest& request,
                                                    const Caller& caller) const {
  if (draining_) {
    return DrainingError();
  }
  auto model = FindModel(request.model(), "model");
  if (!model.ok()) {
    return model.status();
  }
  auto plan = (*model)->ChoosePlan();
  if (!plan.ok()) {
    return plan.status();
  }
  auto params = Validate(request, (*model)->Describe(*plan));
  if (!params.ok()) {
    return params.status();
  }
  if (caller.unary) {
    if (absl::Status fits = ValidateUnarySize(*params, limits_.max_unary_bytes); !fits.ok()) {
      return fits;
    }
  }
  Draft draft{*model, *std::move(plan), {}};
  params->set_layout(draft.plan.layout());
  if (!request.sampling().has_seed()) {
    params->set_seed(RandomSeed());
    draft.seed_drawn = true;
  }
  GenerationSpec& spec = draft.spec;
  spec.request_id = request.request_id().empty() ? RandomUuid() : request.request_id();
  spec.fingerprint = Fingerprint(request);
  spec.prompt = request.prompt().text();
  spec.negative_prompt = request.prompt().negative_text();
  spec.embed_metadata = request.output().embed_metadata();
  spec.preview_every_steps = request.stream().preview_every_steps();
  spec.preview_max_edge = request.stream().preview_max_edge();
  if (request.scheduling().priority() != v1::PRIORITY_UNSPECIFIED) {
    spec.priority = request.scheduling().priority();
  }
  spec.accepted.set_plan_digest(draft.plan.plan_digest());
  spec.accepted.set_server_instance(server_instance_);
  spec.estimate = (*model)->costs().Expect(draft.plan.plan_digest(), *params);
  v1::Cost& cost = *spec.accepted.mutable_cost();
  cost.set_steps(int64_t{params->steps()} * params->count());
  cost.set_pixels(int64_t{params->width()} * params->height() * params->count());
  if (spec.estimate.has_value()) {
    const absl::Duration run = spec.estimate->Run(*params);
    *spec.accepted.mutable_estimated_run() = ToProto(run);
    *cost.mutable_gpu_time() = ToProto(run * std::max(1, draft.plan.ranks()));
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
  auto best = model.costs().ExpectAtBest(plan, spec.params());
  absl::Duration needed;
  if (best.has_value()) {
    needed = best->Run(spec.params()) + model.BestWait(plan, ahead);
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
                                                const Caller& caller) const {
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
  const bool keep = request.scheduling().on_disconnect() == v1::DISCONNECT_POLICY_DETACH;
  const std::string id = draft->spec.request_id;
  while (true) {
    auto claimed = registry_.Claim(id, draft->spec.fingerprint, [&](std::optional<uint64_t> seed) {
      return Make(*draft, seed, request.scheduling());
    });
    if (!claimed.ok()) {
      return claimed.status();
    }
    std::shared_ptr<Generation> generation = std::move(claimed->generation);
    const bool joined = generation->Subscribe(caller.subscriber, keep);
    if (!claimed->fresh) {
      const Standing standing = generation->standing();
      if (joined || !Registry::RunsAnew(standing.status)) {
        return generation;
      }
      continue;  // It ended between the claim and now, in a way that begins anew.
    }
    absl::Status status = CheckDeadline(model, draft->spec, ahead, caller.deadline);
    if (status.ok()) {
      status = model.queue().Push(generation);
    }
    if (!status.ok()) {
      if (!absl::IsDeadlineExceeded(status)) {
        const auto wait = model.EstimateWait(draft->spec.accepted.plan_digest(), ahead);
        status = WithRetry(status, WithJitter(std::max(kLeastWait, wait.value_or(kUnknownWait))));
      }
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

std::shared_ptr<Generation> Admission::Make(Draft draft, std::optional<uint64_t> seed,
                                            const v1::SchedulingHints& hints) {
  if (seed.has_value() && draft.seed_drawn) {
    draft.spec.accepted.mutable_effective()->set_seed(*seed);
  }
  auto timeout = std::make_shared<std::atomic<Timer::Id>>(0);
  ServedModel& model = *draft.model;
  auto generation =
      std::make_shared<Generation>(std::move(draft.spec), [this, &model, timeout](Generation& g) {
        timer_.Cancel(*timeout);
        OnEnd(model, g);
      });
  if (hints.has_timeout()) {
    *timeout =
        timer_.After(FromProto(hints.timeout()), [weak = std::weak_ptr<Generation>(generation)] {
          if (auto alive = weak.lock()) {
            alive->End(alive->DeadlineError());
          }
        });
  }
  return generation;
}

void Admission::OnEnd(ServedModel& model, Generation& generation) {
  model.queue().Remove(generation);
  registry_.Ended(generation);
  const Standing standing = generation.standing();
  const std::string why = ReasonOf(standing.status);
  if (why == reason::kQueueFull || why == reason::kDeadlineUnmeetable) {
    return;  // It was never accepted.
  }
  const GenerationSpec& spec = generation.spec();
  const v1::EffectiveParams& params = spec.params();
  LogInfo(
      "generation ended",
      {{"request_id", spec.request_id},
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

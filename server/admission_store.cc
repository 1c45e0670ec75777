// What outlives the calls that asked for it, and the process: how it is kept, and taken up again.
#include "server/admission.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/errors.h"
#include "server/log.h"
#include "server/random.h"

namespace patchflow {

absl::Status Admission::Keep(const std::shared_ptr<Generation>& generation,
                             Clock::time_point until) {
  if (store_ == nullptr) {
    if (!warned_of_no_store_.exchange(true)) {
      LogWarning(
          "a detached generation was accepted, and no store is configured: none outlives "
          "this process",
          {{"request_id", generation->spec().request_id}});
    }
    return absl::OkStatus();
  }
  if (generation->durable() && generation->ended()) {
    return absl::OkStatus();  // All of it is there, or soon will be.
  }
  const absl::Duration timeout =
      until == Holders::kForever
          ? absl::InfiniteDuration()
          : absl::Now() - generation->create_time() + absl::FromChrono(until - Clock::now());
  if (!store_->Accept(generation, timeout).ok()) {
    return WithRetry(
        MakeError(absl::StatusCode::kUnavailable, reason::kStoreFailed,
                  "the generation cannot be stored, so it would not be safe to detach from it"),
        Jittered(absl::Seconds(1)));
  }
  store_->Follow(generation);
  generation->SetDurable();
  return absl::OkStatus();
}

void Admission::Detach(const std::shared_ptr<Generation>& generation, Clock::time_point until) {
  generation->Keep(until);
  if (until != Holders::kForever) {
    const Timer::Id id = timer_.At(until, [weak = std::weak_ptr<Generation>(generation)] {
      if (auto alive = weak.lock()) {
        alive->EndUnlessHeld();
      }
    });
    generation->AtEnd([this, id] { timer_.Cancel(id); });
  }
}

void Admission::Restore(StoredGeneration stored) {
  auto found = models_.find(stored.spec.params().model());
  ServedModel* model = found == models_.end() ? nullptr : found->second.get();
  Clock::time_point until = Holders::kForever;
  if (stored.timeout < absl::InfiniteDuration()) {
    until = Clock::now() + ToClock(stored.create_time + stored.timeout - absl::Now());
  }
  const GenerationKey key = stored.spec.key();
  const std::string fingerprint = stored.spec.fingerprint;
  const std::string model_name = stored.spec.params().model();
  auto claimed = registry_.Claim(key, fingerprint, [&](std::optional<uint64_t>) {
    return MakeOf(model, std::move(stored.spec), stored.create_time);
  });
  if (!claimed.ok() || !claimed->fresh) {
    return;
  }
  Generation& generation = *claimed->generation;
  generation.RestoreImages(std::move(stored.images), stored.attempt + 1);
  generation.SetDurable();
  store_->Follow(claimed->generation);
  Detach(claimed->generation, until);
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

}  // namespace patchflow

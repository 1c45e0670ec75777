#include "server/registry.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace patchflow {
namespace {

constexpr size_t kMaxCancelledAhead = 1024;
constexpr Clock::duration kPoisonAge = std::chrono::minutes(10);

}  // namespace

absl::Status PoisonError() {
  return MakeError(absl::StatusCode::kInternal, reason::kPoisonRequest,
                   "workers ended while they ran this request; it is not run again");
}

absl::Status ConflictError(const std::string& request_id) {
  return WithResource(
      MakeError(absl::StatusCode::kAlreadyExists, reason::kRequestIdConflict,
                absl::StrCat("request_id ", request_id, " belongs to another request"),
                {{"request_id", request_id}}),
      "patchflow.v1.Generation", request_id);
}

bool Registry::RunsAnew(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsDeadlineExceeded(status) || ReasonOf(status) == reason::kClientCancelled;
}

Registry::Registry(size_t max_bytes, absl::Duration max_age, Now now)
    : max_bytes_(max_bytes), max_age_(ToClock(max_age)), now_(std::move(now)) {}

absl::StatusOr<Registry::Claimed> Registry::Claim(const GenerationKey& key,
                                                  const std::string& fingerprint,
                                                  const Make& make) {
  if (absl::Status status = Remember(key); !status.ok()) {
    return status;
  }
  std::shared_ptr<Generation> replaced;
  std::lock_guard<std::mutex> lock(mutex_);
  ExpireLocked();
  if (cancelled_.count(key) != 0) {
    return MakeError(absl::StatusCode::kCancelled, reason::kCancelledByRequest,
                     absl::StrCat("request ", key.request_id, " was cancelled before it came"),
                     {{"request_id", key.request_id}});
  }
  if (poisoned_.count(fingerprint) != 0) {
    return PoisonError();
  }
  std::optional<uint64_t> seed;
  auto found = known_.find(key);
  if (found != known_.end()) {
    Generation& generation = *found->second;
    if (generation.spec().fingerprint != fingerprint) {
      return ConflictError(key.request_id);
    }
    const Standing standing = generation.standing();
    if (!standing.ended() || !RunsAnew(standing.status)) {
      return Claimed{found->second, false};
    }
    seed = generation.spec().params().seed();
    replaced = std::move(found->second);
    known_.erase(found);
  }
  Claimed claimed{make(seed), true};
  known_[key] = claimed.generation;
  ++live_;
  return claimed;
}

absl::Status Registry::Remember(const GenerationKey& key) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (known_.count(key) != 0) {
      return absl::OkStatus();
    }
  }
  auto recalled = recall_(key);
  if (!recalled.ok() || *recalled == nullptr) {
    return recalled.status();
  }
  Generation& generation = **recalled;
  const size_t bytes = generation.bytes();
  std::lock_guard<std::mutex> lock(mutex_);
  if (known_.emplace(key, *recalled).second) {
    KeepLocked(key, generation, bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Generation>> Registry::Known(const GenerationKey& key) {
  if (absl::Status status = Remember(key); !status.ok()) {
    return status;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  ExpireLocked();
  auto found = known_.find(key);
  return found == known_.end() ? nullptr : found->second;
}

absl::StatusOr<std::shared_ptr<Generation>> Registry::Find(const GenerationKey& key) {
  auto known = Known(key);
  if (known.ok() && *known == nullptr) {
    return WithResource(
        MakeError(absl::StatusCode::kNotFound, reason::kGenerationNotFound,
                  absl::StrCat("no generation ", key.request_id, "; ended ones are kept for ",
                               absl::FormatDuration(absl::FromChrono(max_age_))),
                  {{"request_id", key.request_id}}),
        "patchflow.v1.Generation", key.request_id);
  }
  return known;
}

absl::StatusOr<std::shared_ptr<Generation>> Registry::FindOrCancelAhead(const GenerationKey& key) {
  if (absl::Status status = Remember(key); !status.ok()) {
    return status;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  ExpireLocked();
  auto found = known_.find(key);
  if (found != known_.end()) {
    return found->second;
  }
  const auto now = now_();
  if (cancelled_.emplace(key, now).second) {
    cancelled_order_.emplace_back(now, key);
  }
  while (cancelled_order_.size() > kMaxCancelledAhead) {
    cancelled_.erase(cancelled_order_.front().second);
    cancelled_order_.pop_front();
  }
  return nullptr;
}

void Registry::Ended(Generation& generation) {
  const GenerationKey key = generation.spec().key();
  const size_t bytes = generation.bytes();
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = known_.find(key);
  if (found == known_.end() || found->second.get() != &generation) {
    return;
  }
  --live_;
  KeepLocked(key, generation, bytes);
  ExpireLocked();
}

void Registry::KeepLocked(const GenerationKey& key, Generation& generation, size_t bytes) {
  kept_.push_back({key, &generation, bytes, now_()});
  kept_bytes_ += bytes;
}

void Registry::Forget(const Generation& generation) {
  std::shared_ptr<Generation> dropped;
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = known_.find(generation.spec().key());
  if (found != known_.end() && found->second.get() == &generation) {
    dropped = std::move(found->second);
    known_.erase(found);
  }
}

void Registry::Poison(const std::string& fingerprint) {
  std::lock_guard<std::mutex> lock(mutex_);
  poisoned_[fingerprint] = now_();
}

void Registry::Expire() {
  std::lock_guard<std::mutex> lock(mutex_);
  ExpireLocked();
}

void Registry::ExpireLocked() {
  const auto now = now_();
  while (!kept_.empty() && (kept_bytes_ > max_bytes_ || now - kept_.front().ended >= max_age_)) {
    DropOldest();
  }
  while (!cancelled_order_.empty() && now - cancelled_order_.front().first >= max_age_) {
    cancelled_.erase(cancelled_order_.front().second);
    cancelled_order_.pop_front();
  }
  for (auto it = poisoned_.begin(); it != poisoned_.end();) {
    it = now - it->second >= kPoisonAge ? poisoned_.erase(it) : std::next(it);
  }
}

void Registry::DropOldest() {
  const Kept& oldest = kept_.front();
  auto found = known_.find(oldest.key);
  if (found != known_.end() && found->second.get() == oldest.generation) {
    known_.erase(found);
  }
  kept_bytes_ -= oldest.bytes;
  kept_.pop_front();
}

std::vector<std::shared_ptr<Generation>> Registry::Live() const {
  std::vector<std::shared_ptr<Generation>> live;
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [key, generation] : known_) {
    if (!generation->ended()) {
      live.push_back(generation);
    }
  }
  return live;
}

size_t Registry::live() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return live_;
}

size_t Registry::kept() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return known_.size() - live_;
}

size_t Registry::kept_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return kept_bytes_;
}

}  // namespace patchflow

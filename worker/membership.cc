#include "worker/membership.h"

#include "absl/strings/str_cat.h"
#include "engine/engine.h"

namespace patchflow {
namespace {

absl::Status Stale(const std::string& text) {
  return WithEngineReason(absl::FailedPreconditionError(text), "STALE_EPOCH");
}

std::string Show(const Ownership& owner) {
  return absl::StrCat("epoch ", owner.epoch, " of '", owner.owner, "'");
}

}  // namespace

std::optional<Place> Membership::place() const {
  const std::lock_guard lock(mutex_);
  return place_;
}

Ownership Membership::ownership() const {
  const std::lock_guard lock(mutex_);
  return owner_;
}

absl::Status Membership::Join(const Ownership& owner, const Place& place) {
  const std::lock_guard lock(mutex_);
  if (place.first_rank < 0 || place.first_rank > group_ranks_ - ranks_) {
    return WithEngineReason(absl::InvalidArgumentError(absl::StrCat(
                                "first_rank: ", place.first_rank, ": ", ranks_,
                                " ranks from there on are not in a group of ", group_ranks_)),
                            "INVALID_REQUEST");
  }
  if (place_.has_value() || owner.epoch == 0) {
    return Stale(absl::StrCat(Show(owner), ": the worker has its place from ", Show(owner_)));
  }
  place_ = place;
  owner_ = owner;
  return absl::OkStatus();
}

absl::Status Membership::TakeOver(const Ownership& owner, uint64_t previous_epoch, int first_rank) {
  const std::lock_guard lock(mutex_);
  if (!place_.has_value() || place_->first_rank != first_rank || owner_.epoch != previous_epoch ||
      owner.epoch <= owner_.epoch) {
    return Stale(absl::StrCat(Show(owner), " can't take over rank ", first_rank,
                              " and on from epoch ", previous_epoch, ": the worker obeys ",
                              Show(owner_)));
  }
  owner_ = owner;
  begun_ = ended_ = 0;
  agreements_.clear();
  return absl::OkStatus();
}

absl::Status Membership::CheckOwnerLocked(const Ownership& owner) const {
  if (owner_.epoch == 0) return Stale(absl::StrCat(Show(owner), ": the worker has not joined"));
  if (owner == owner_) return absl::OkStatus();
  return Stale(absl::StrCat(Show(owner), ": the worker obeys ", Show(owner_)));
}

absl::Status Membership::CheckOwner(const Ownership& owner) const {
  const std::lock_guard lock(mutex_);
  return CheckOwnerLocked(owner);
}

absl::Status Membership::CheckLeave(const Ownership& owner) const {
  const std::lock_guard lock(mutex_);
  return owner_.epoch != 0 && owner.epoch > owner_.epoch ? absl::OkStatus()
                                                         : CheckOwnerLocked(owner);
}

std::shared_ptr<JobAgreement> Membership::AgreementLocked(int64_t job) {
  std::shared_ptr<JobAgreement>& agreement = agreements_[job];
  if (agreement == nullptr) agreement = std::make_shared<JobAgreement>();
  std::shared_ptr<JobAgreement> result = agreement;
  // Besides the one that runs, only the last that was asked for can still come.
  std::erase_if(agreements_,
                [&](const auto& other) { return other.first > begun_ && other.first != job; });
  return result;
}

absl::StatusOr<std::shared_ptr<JobAgreement>> Membership::Begin(const Ownership& owner,
                                                                int64_t job) {
  const std::lock_guard lock(mutex_);
  if (absl::Status status = CheckOwnerLocked(owner); !status.ok()) return status;
  if (job <= begun_) {
    return Stale(absl::StrCat("job ", job, " after job ", begun_));
  }
  begun_ = job;
  return AgreementLocked(job);
}

void Membership::End(int64_t job) {
  const std::lock_guard lock(mutex_);
  if (job > begun_) return;  // Of an owner before this one.
  ended_ = job;
  agreements_.erase(agreements_.begin(), agreements_.upper_bound(job));
}

absl::StatusOr<int64_t> Membership::Hold(const Ownership& owner, int64_t job) {
  const std::lock_guard lock(mutex_);
  if (absl::Status status = CheckOwnerLocked(owner); !status.ok()) return status;
  return job <= ended_ ? JobAgreement::kNever : AgreementLocked(job)->Hold();
}

absl::Status Membership::StopAt(const Ownership& owner, int64_t job, int64_t step) {
  const std::lock_guard lock(mutex_);
  if (absl::Status status = CheckOwnerLocked(owner); !status.ok()) return status;
  if (job > ended_) AgreementLocked(job)->StopAt(step);
  return absl::OkStatus();
}

}  // namespace patchflow

// A worker's part in a group of several workers: its place, its owner, and the job that they share.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/job_agreement.h"
#include "worker/place.h"

namespace patchflow {

// Refuses whoever is not the owner of the present epoch with FAILED_PRECONDITION / STALE_EPOCH.
// Thread-safe.
class Membership {
 public:
  // Of a worker with `ranks` of the group's `group_ranks`.
  Membership(int ranks, int group_ranks) : ranks_(ranks), group_ranks_(group_ranks) {}

  int group_ranks() const { return group_ranks_; }
  // Nothing before it has joined.
  std::optional<Place> place() const;
  Ownership ownership() const;

  // Takes this place, once. INVALID_ARGUMENT / INVALID_REQUEST for ranks that the group does not
  // have, FAILED_PRECONDITION / STALE_EPOCH if it has one or the epoch is none.
  absl::Status Join(const Ownership& owner, const Place& place);
  // Goes on where it is under a new owner, who knows the epoch before and has a higher one.
  absl::Status TakeOver(const Ownership& owner, uint64_t previous_epoch, int first_rank);
  absl::Status CheckOwner(const Ownership& owner) const;
  // Whether this one may end the worker: an owner of the same or a later epoch.
  absl::Status CheckLeave(const Ownership& owner) const;

  // The job that runs from now on, numbered upwards from 1 in each epoch.
  absl::StatusOr<std::shared_ptr<JobAgreement>> Begin(const Ownership& owner, int64_t job);
  void End(int64_t job);
  // See JobAgreement. A job may be held before it begins; one that is over is at kNever.
  absl::StatusOr<int64_t> Hold(const Ownership& owner, int64_t job);
  absl::Status StopAt(const Ownership& owner, int64_t job, int64_t step);

 private:
  absl::Status CheckOwnerLocked(const Ownership& owner) const;
  // Of a job that is not over.
  std::shared_ptr<JobAgreement> AgreementLocked(int64_t job);

  const int ranks_;
  const int group_ranks_;
  mutable std::mutex mutex_;
  std::optional<Place> place_;
  Ownership owner_;
  int64_t begun_ = 0;
  int64_t ended_ = 0;
  std::map<int64_t, std::shared_ptr<JobAgreement>> agreements_;  // Of jobs that are not over.
};

}  // namespace patchflow

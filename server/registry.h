// The generations that the server knows, by owner and request_id.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/generation.h"

namespace patchflow {

// INTERNAL / POISON_REQUEST.
absl::Status PoisonError();
// ALREADY_EXISTS / REQUEST_ID_CONFLICT.
absl::Status ConflictError(const std::string& request_id);

// Makes request_id idempotent. Live generations stay until they end; ended ones for `max_age`, the
// oldest going first when they hold more than `max_bytes`. A cancellation that comes before its
// generation is kept for `max_age` too, 1024 of them at most. Thread-safe; calls nobody but `make`
// and `now`.
class Registry {
 public:
  using Now = std::function<Clock::time_point()>;
  // `seed`: what an earlier run of the same request drew.
  using Make = std::function<std::shared_ptr<Generation>(std::optional<uint64_t> seed)>;

  // A generation that ended in an earlier life of the server, or long ago; null if there is none;
  // an error if that can't be known now.
  using Recall =
      std::function<absl::StatusOr<std::shared_ptr<Generation>>(const GenerationKey& key)>;

  // Whether a generation that ended so is run anew when its request comes again.
  static bool RunsAnew(const absl::Status& status);

  Registry(
      size_t max_bytes, absl::Duration max_age, Now now = [] { return Clock::now(); });
  // Before there are threads: asked for what is not known here, without locks held.
  void SetRecall(Recall recall) { recall_ = std::move(recall); }

  struct Claimed {
    std::shared_ptr<Generation> generation;
    bool fresh = false;  // Made now, so the caller has to run it.
  };
  // The generation of this id: the one that is known, if it has the same fingerprint, else a new
  // one. One that ended with an error that a retry may heal (UNAVAILABLE, RESOURCE_EXHAUSTED,
  // DEADLINE_EXCEEDED, the client gone) is made anew, with the same seed; any other outcome is
  // replayed. ALREADY_EXISTS / REQUEST_ID_CONFLICT; CANCELLED / CANCELLED_BY_REQUEST if it was
  // cancelled before it came; INTERNAL / POISON_REQUEST if workers died at this fingerprint; the
  // recall's error.
  absl::StatusOr<Claimed> Claim(const GenerationKey& key, const std::string& fingerprint,
                                const Make& make);

  // NOT_FOUND / GENERATION_NOT_FOUND, also for what belongs to another owner; the recall's error.
  absl::StatusOr<std::shared_ptr<Generation>> Find(const GenerationKey& key);

  // The same, but null if there is none.
  absl::StatusOr<std::shared_ptr<Generation>> Known(const GenerationKey& key);

  // The generation to cancel, perhaps one that has ended; null after noting the cancellation for a
  // generation that has not come; the recall's error.
  absl::StatusOr<std::shared_ptr<Generation>> FindOrCancelAhead(const GenerationKey& key);

  // `generation` has ended: keeps it for a while. Nothing if it is not the one known by its id.
  void Ended(Generation& generation);
  // It has ended without having been admitted: the next of its id starts afresh.
  void Forget(const Generation& generation);
  // Refuses this fingerprint for 10 minutes.
  void Poison(const std::string& fingerprint);
  // Drops what is too old.
  void Expire();

  std::vector<std::shared_ptr<Generation>> Live() const;
  size_t live() const;
  size_t kept() const;
  size_t kept_bytes() const;

 private:
  struct Kept {
    GenerationKey key;
    const Generation* generation;
    size_t bytes;
    Clock::time_point ended;
  };
  // Keeps what the recall knows of `key`, if it is not known here.
  absl::Status Remember(const GenerationKey& key);
  void KeepLocked(const GenerationKey& key, Generation& generation, size_t bytes);
  void ExpireLocked();
  void DropOldest();

  const size_t max_bytes_;
  const Clock::duration max_age_;
  const Now now_;
  Recall recall_ = [](const GenerationKey&) { return nullptr; };

  mutable std::mutex mutex_;
  std::map<GenerationKey, std::shared_ptr<Generation>> known_;
  std::deque<Kept> kept_;  // Oldest first. May name generations that a later run has replaced.
  size_t kept_bytes_ = 0;
  size_t live_ = 0;
  std::map<GenerationKey, Clock::time_point> cancelled_;
  std::deque<std::pair<Clock::time_point, GenerationKey>> cancelled_order_;
  std::map<std::string, Clock::time_point> poisoned_;
};

}  // namespace patchflow

// Detached generations that outlive the process: what was accepted, and what came of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/config.h"
#include "server/generation.h"
#include "server/store_table.h"

namespace patchflow {

class StoreDesk;

// A directory that one process holds at a time, with rows in SQLite and images in files (see
// StoreTable). What has ended goes once it is too old, and the oldest first when all together is
// too large; what has not ended stays. Images that DRAINING or the end of the process kept from
// being made count as not ended, and are made by the next process.
//
// One thread of its own does all that touches the disk, as many changes at a time as wait. Callers
// wait for it for `max_wait` at most; while it is at one piece of work for longer, they do not wait
// at all. Thread-safe.
class Store {
 public:
  // Makes the directory, for this user alone, as all files in it are: they hold prompts.
  // UNAVAILABLE, naming it, if it cannot be used or another process holds it.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const StoreConfig& config);
  // Writes what waits, for at most 10 s; a disk that does not come back is left alone then, and the
  // directory stays held until the process ends.
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // `generation` is on the disk when this returns, and everything that comes of it will be, soon
  // after it came. One of the same key that has ended is replaced. UNAVAILABLE if it cannot be
  // written in time; nothing of it stays. Waits for the disk: one sync.
  absl::Status Accept(const std::shared_ptr<Generation>& generation, absl::Duration timeout);
  // It is not run after all. Does not wait.
  void Drop(const GenerationKey& key);
  // What comes of `generation`, which is on the disk, goes there too. Does not wait.
  void Follow(const std::shared_ptr<Generation>& generation);

  // In the order of their acceptance. Waits for as long as it takes: for the start.
  absl::StatusOr<std::vector<StoredGeneration>> Unfinished();
  // NOT_FOUND if it is not there, has not ended or is too old, without a wait if nothing of the key
  // is there. UNAVAILABLE if the disk does not answer in time; DATA_LOSS if it holds something else
  // than was written. Reads its images.
  absl::StatusOr<StoredGeneration> FindEnded(const GenerationKey& key);

  struct Figures {
    int64_t generations = 0;
    int64_t bytes = 0;
    int64_t failures = 0;  // Reads and writes that did not succeed, or not in time.
  };
  Figures figures() const;

 private:
  explicit Store(std::shared_ptr<StoreDesk> desk) : desk_(std::move(desk)) {}

  const std::shared_ptr<StoreDesk> desk_;  // The thread's as well.
};

}  // namespace patchflow

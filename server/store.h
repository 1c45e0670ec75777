// Detached generations that outlive the process: what was accepted, and what came of it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/config.h"
#include "server/generation.h"
#include "server/sqlite.h"

namespace patchflow {

// One generation as it is stored.
struct StoredGeneration {
  GenerationSpec spec;
  absl::Duration timeout = absl::InfiniteDuration();  // From create_time.
  absl::Time create_time;
  std::vector<std::shared_ptr<const EncodedImage>> images;  // Null where it is missing.
  // Once it has ended:
  std::optional<absl::Status> end;
  absl::Time end_time;
  v1::Completed completed;
};

// A SQLite file in a directory that one process holds at a time. What has ended goes once it is too
// old, and the oldest first when all together is too large; what has not ended stays. Images that
// DRAINING or the end of the process kept from being made count as not ended, and are made by the
// next process. Thread-safe.
class Store {
 public:
  // Makes the directory. UNAVAILABLE, naming it, if it cannot be used or another process holds it.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const StoreConfig& config);
  ~Store();  // Writes what waits.
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // `generation` is in the file when this returns, and everything that comes of it will be, soon
  // after it came. One of the same key that has ended is replaced. UNAVAILABLE if it cannot be
  // written. About 0.1 ms.
  absl::Status Accept(const std::shared_ptr<Generation>& generation, absl::Duration timeout);
  // It is not run after all.
  void Drop(const GenerationKey& key);
  // What comes of `generation`, which is in the file, goes there too.
  void Follow(const std::shared_ptr<Generation>& generation);

  // In the order of their acceptance.
  absl::StatusOr<std::vector<StoredGeneration>> Unfinished();
  // Nothing if it is not there or has not ended. Reads its images.
  std::optional<StoredGeneration> FindEnded(const GenerationKey& key);

  struct Figures {
    int64_t generations = 0;
    int64_t bytes = 0;
    int64_t failures = 0;  // Writes that did not succeed.
  };
  Figures figures() const;

 private:
  class Follower;

  Store(const StoreConfig& config, int lock, SqlDatabase database);
  absl::Status Prepare();
  void Enqueue(const std::shared_ptr<Generation>& generation);
  void Run();
  absl::Status Write(const Generation& generation);
  absl::Status WriteImages(const Generation& generation);
  absl::Status WriteEnd(const Generation& generation, const absl::Status& end);
  absl::Status Evict();
  absl::Status Delete(const GenerationKey& key);
  absl::StatusOr<StoredGeneration> Read(SqlStatement& row);
  void Note(const absl::Status& status, const std::string& request_id);

  const StoreConfig config_;
  const int lock_;
  mutable std::mutex database_mutex_;
  const SqlDatabase database_;  // Under database_mutex_.
  int64_t generations_ = 0;
  int64_t bytes_ = 0;
  int64_t failures_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Generation>> waiting_;
  std::map<const Generation*, std::shared_ptr<Follower>> followers_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace patchflow

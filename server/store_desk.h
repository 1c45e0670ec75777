// The thread of the store, and what waits for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/clock.h"
#include "server/config.h"
#include "server/generation.h"
#include "server/store_table.h"

namespace patchflow {

// Does everything that touches the table, in the order in which it is asked for, as many changes at
// a time as wait (64 at most), for one sync. Thread-safe.
class StoreDesk : public std::enable_shared_from_this<StoreDesk> {
 public:
  // What somebody waits for, perhaps no longer. Under `mutex`, but for what the thread alone uses.
  struct Answer {
    std::mutex mutex;
    std::condition_variable came;
    std::optional<absl::Status> status;
    std::optional<StoredGeneration> found;
    bool asked = false;     // It was not refused at once.
    bool inserted = false;  // Of the thread.

    void Give(const absl::Status& with);
  };

  // One piece of work: a change, within StoreTable::Change(), perhaps with others; or a read.
  struct Task {
    std::function<absl::Status(StoreTable& table)> change;
    std::function<absl::Status(StoreTable& table)> read = nullptr;
    std::shared_ptr<Answer> answer = nullptr;
    std::string request_id = {};
    std::shared_ptr<Generation> follows = nullptr;
    bool failed = false;  // What came of a generation is then written again, a second later.
  };

  // `lock`: a file that is closed with the table, at the end of the thread.
  StoreDesk(const StoreConfig& config, int lock, std::unique_ptr<StoreTable> table)
      : config_(config), lock_(lock), table_(std::move(table)) {}

  void Start();
  // Waits until all is done that was asked for, for at most 10 s; the thread, which holds the desk,
  // is left alone then.
  void Stop();

  // Does not wait.
  void Post(Task task);
  // Posts `task` and waits for its answer: UNAVAILABLE after config.max_wait, and at once while the
  // thread has been at its present work for longer than that.
  absl::Status Ask(Task task);
  // What comes of `generation` is written down, until it has ended; what can't be is tried again.
  // Does not wait.
  void Follow(const std::shared_ptr<Generation>& generation);

  const StoreConfig& config() const { return config_; }
  const StoreTable& table() const { return *table_; }  // Before Stop().
  int64_t failures() const { return failures_; }

 private:
  class Follower;

  bool stuck() const;
  void Enqueue(const std::shared_ptr<Generation>& generation);
  void Run();
  void Do(std::vector<Task>& tasks);
  void DoChanges(std::vector<Task*>& changes);
  void Finish(Task& task, const absl::Status& status);
  void Note(const absl::Status& status, const std::string& request_id);
  void Unfollow(const std::vector<Task>& done);
  void KeepFailed(std::vector<Task>& done);
  void TakeFailed();

  const StoreConfig config_;
  const int lock_;
  std::unique_ptr<StoreTable> table_;
  std::atomic<int64_t> failures_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> waiting_;
  std::vector<Task> failed_;
  Clock::time_point failed_at_;
  std::map<const Generation*, std::shared_ptr<Follower>> followers_;
  bool at_work_ = false;
  Clock::time_point began_;
  bool stopping_ = false;
  bool ended_ = false;
};

}  // namespace patchflow

// What the ranks of a world over host memory share: who splits what off, and one end for all.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/local_channel.h"
#include "parallel/local_communicator.h"

namespace patchflow {

// Thread-safe. Callbacks are called with locks held: they must not call back, and not block.
class LocalHub {
 public:
  LocalHub(int size, const LocalOptions& options) : size_(size), options_(options) {}
  int size() const { return size_; }

  struct Member {
    std::shared_ptr<LocalChannel> channel;  // Null for a negative color.
    int rank = 0;
  };
  // The `index`-th split of this world by `rank`. Throws CommunicatorError.
  Member Split(size_t index, int rank, int color, std::string_view name);
  // The same without the wait: `on_split` is told when every rank has come.
  void Arrive(size_t index, int rank, int color, std::string_view name,
              std::function<void(const Member&)> on_split);

  void Abort(const std::string& reason);
  // Called once, with the reason of the abort, now or later.
  void OnAbort(std::function<void(const std::string& reason)> hook);

  void ReportUnwaited(std::string what);
  std::vector<std::string> Unwaited();

 private:
  struct SplitCall {
    std::string name;
    std::vector<int> colors;
    std::vector<std::function<void(const Member&)>> told;  // By rank.
    std::vector<Member> members;                           // Empty until every rank has come.
    int arrived = 0;
  };
  SplitCall& ArriveLocked(size_t index, int rank, int color, std::string_view name,
                          std::function<void(const Member&)> on_split);
  void Resolve(SplitCall& call);
  [[noreturn]] void Fail(const std::string& reason);
  void AbortLocked(const std::string& reason);

  const int size_;
  const LocalOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<SplitCall> splits_;
  std::vector<std::weak_ptr<LocalChannel>> channels_;
  std::vector<std::function<void(const std::string&)>> abort_hooks_;
  std::vector<std::string> unwaited_;
  std::string aborted_;
};

// The world of one rank of a hub, for a thread of this process.
std::unique_ptr<LocalWorld> MakeHubWorld(std::shared_ptr<LocalHub> hub, int rank);

}  // namespace patchflow

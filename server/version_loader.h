// Loads other weights of a model beside those that are served, and puts them in their place.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "patchflow/admin/v1/admin.pb.h"
#include "server/fleet.h"
#include "server/served_model.h"

namespace patchflow {

// One version at a time and model; each on a thread of its own. See LoadModel in admin.proto for
// what happens in which order. Nothing that was accepted is lost: what chose the old plan is queued
// before the old groups are told to finish, and they end only when nothing of their plan is left.
// Thread-safe.
class VersionLoader {
 public:
  // Everything must outlive this.
  struct Parts {
    Fleet& fleet;
    // A group of this configuration that follows `before`.
    std::function<std::unique_ptr<Group>(const GroupConfig& config, const Group& before)> make;
    absl::Duration load_timeout;           // From the start of the workers until all are ready.
    absl::Duration drain_timeout;          // For what the old version has accepted.
    std::function<int64_t()> host_memory;  // See AvailableHostMemory().
  };
  explicit VersionLoader(Parts parts);
  ~VersionLoader();
  VersionLoader(const VersionLoader&) = delete;
  VersionLoader& operator=(const VersionLoader&) = delete;

  // Checks, and begins. Reads the headers of the weights' files. Errors: see LoadModel.
  absl::StatusOr<admin::v1::ModelLoad> Begin(ServedModel& model, const std::string& folder);
  // The last that began; nothing if there was none.
  std::optional<admin::v1::ModelLoad> Progress(ServedModel& model) const;
  // Begins none any more, gives up what loads and waits for the threads.
  void Stop();

 private:
  struct Load {
    admin::v1::ModelLoad told;
    bool busy = false;
    std::thread thread;
  };
  // What must not go on as it is: OK if it can begin.
  absl::Status Check(ServedModel& model, const std::string& folder) const;
  void Run(ServedModel& model, const std::string& folder);
  // Why the groups can't take over; empty once they can.
  std::string WaitReady(const ServedModel& model, const std::vector<Group*>& coming);
  void Replace(ServedModel& model, const std::vector<Group*>& leaving,
               const std::vector<Group*>& coming);
  // Ends what the old groups have not finished; how many.
  int EndLeft(ServedModel& model, const std::vector<Group*>& leaving);
  // False if the server is stopping or `until` is over before `done` says so.
  bool WaitFor(Clock::time_point until, const std::function<bool()>& done);
  void Tell(const ServedModel& model, const std::function<void(admin::v1::ModelLoad&)>& change);
  void Conclude(const ServedModel& model, const std::string& failure);

  const Parts parts_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::map<std::string, Load> loads_;  // By model.
};

}  // namespace patchflow

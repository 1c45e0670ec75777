// The groups of a server, each with what keeps it at work.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "server/dispatcher.h"
#include "server/group.h"
#include "server/supervisor.h"

namespace patchflow {

// Thread-safe. A group that has ended is kept until the fleet goes: whoever looked up a group a
// moment ago may still ask it how it is. That is some hundred bytes for each version of a model.
class Fleet {
 public:
  struct Makers {
    // `trial`: see Supervisor::Options. May give none.
    std::function<std::unique_ptr<Supervisor>(Group& group, bool trial)> supervisor;
    std::function<std::unique_ptr<Dispatcher>(Group& group)> dispatcher;
  };

  Fleet() = default;
  ~Fleet();
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  // Before the first Supervise().
  void SetMakers(Makers makers) { makers_ = std::move(makers); }

  // At the end, or right behind `after`. Does nothing with it yet.
  Group& Add(std::unique_ptr<Group> group, const Group* after = nullptr);
  // Starts the group's worker, or begins to look for it.
  void Supervise(Group& group, bool trial = false);
  // Begins to give it jobs.
  void Dispatch(Group& group);
  // Stops the group and its worker. Waits for both, some seconds at most.
  void End(Group& group);

  // In order, without those that have ended.
  std::vector<Group*> groups() const;

  // Stops every group, without waiting.
  void StopAll();
  // Waits for the end of all. The queues must have been closed.
  void Clear();

 private:
  struct Member {
    std::unique_ptr<Group> group;
    std::unique_ptr<Supervisor> supervisor;
    std::unique_ptr<Dispatcher> dispatcher;
    bool ended = false;
  };
  Member& MemberOf(const Group& group);

  Makers makers_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Member>> members_;
};

}  // namespace patchflow

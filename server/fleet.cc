#include "server/fleet.h"

#include <algorithm>
#include <utility>

namespace patchflow {

Fleet::~Fleet() {
  StopAll();
  Clear();
}

Fleet::Member& Fleet::MemberOf(const Group& group) {
  return **std::find_if(members_.begin(), members_.end(),
                        [&](const auto& member) { return member->group.get() == &group; });
}

Group& Fleet::Add(std::unique_ptr<Group> group, const Group* after) {
  auto member = std::make_unique<Member>();
  member->group = std::move(group);
  Group& added = *member->group;
  std::lock_guard<std::mutex> lock(mutex_);
  auto place = std::find_if(members_.begin(), members_.end(),
                            [&](const auto& known) { return known->group.get() == after; });
  members_.insert(place == members_.end() ? place : std::next(place), std::move(member));
  return added;
}

void Fleet::Supervise(Group& group, bool trial) {
  auto supervisor = makers_.supervisor(group, trial);
  std::lock_guard<std::mutex> lock(mutex_);
  MemberOf(group).supervisor = std::move(supervisor);
}

void Fleet::Dispatch(Group& group) {
  auto dispatcher = makers_.dispatcher(group);
  std::lock_guard<std::mutex> lock(mutex_);
  MemberOf(group).dispatcher = std::move(dispatcher);
}

void Fleet::End(Group& group) {
  group.Stop();
  std::unique_ptr<Supervisor> supervisor;
  std::unique_ptr<Dispatcher> dispatcher;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Member& member = MemberOf(group);
    member.ended = true;
    supervisor = std::move(member.supervisor);
    dispatcher = std::move(member.dispatcher);
  }
  dispatcher.reset();
  supervisor.reset();
}

std::vector<Group*> Fleet::groups() const {
  std::vector<Group*> groups;
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& member : members_) {
    if (!member->ended) {
      groups.push_back(member->group.get());
    }
  }
  return groups;
}

void Fleet::StopAll() {
  for (Group* group : groups()) {
    group->Stop();
  }
}

void Fleet::Clear() {
  std::vector<std::unique_ptr<Dispatcher>> dispatchers;
  std::vector<std::unique_ptr<Supervisor>> supervisors;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& member : members_) {
      dispatchers.push_back(std::move(member->dispatcher));
      supervisors.push_back(std::move(member->supervisor));
    }
  }
  dispatchers.clear();
  supervisors.clear();
}

}  // namespace patchflow

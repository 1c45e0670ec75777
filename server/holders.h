// Who wants a generation, and for how long.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "server/clock.h"

namespace patchflow {

// Someone who hears of a generation: a stream, a unary call, the store.
class GenerationSubscriber {
 public:
  virtual ~GenerationSubscriber() = default;
  // Something changed. Called on any thread without locks held; must not block.
  virtual void OnChange() = 0;
};

// A generation goes on while somebody holds it: a subscriber until its time is over or it goes, and
// a caller that detached until its time is over, gone or not. Not thread-safe: the generation's
// lock guards it.
class Holders {
 public:
  using Listener = std::shared_ptr<GenerationSubscriber>;
  using TimePoint = Clock::time_point;
  static constexpr TimePoint kForever = TimePoint::max();

  void Add(const Listener& subscriber, TimePoint until) { holds_.push_back({subscriber, until}); }
  // Hears of changes, and holds nothing.
  void AddListener(const Listener& listener) { listeners_.push_back(listener); }
  // Somebody detached. The latest of several counts.
  void Keep(TimePoint until) { kept_until_ = std::max(kept_until_, until); }
  // It holds no longer. True if there were some who held, and now there are none.
  bool Drop(const GenerationSubscriber* subscriber, TimePoint now) {
    const bool held = !holds_.empty();
    std::erase_if(holds_, [&](const Hold& hold) {
      const Listener other = hold.subscriber.lock();
      return other == nullptr || other.get() == subscriber;
    });
    return held && !Any(now);
  }

  bool Any(TimePoint now) const { return Until() > now; }
  // The latest time until which somebody holds; that of `subscriber`, which holds forever if it is
  // not known.
  TimePoint Until() const {
    TimePoint until = kept_until_;
    for (const Hold& hold : holds_) {
      until = std::max(until, hold.until);
    }
    return until;
  }
  TimePoint UntilOf(const GenerationSubscriber* subscriber) const {
    for (const Hold& hold : holds_) {
      if (hold.subscriber.lock().get() == subscriber) {
        return hold.until;
      }
    }
    return kForever;
  }
  // All who hear of changes.
  std::vector<Listener> Listeners() const {
    std::vector<Listener> all;
    all.reserve(holds_.size() + listeners_.size());
    const auto add = [&all](const std::weak_ptr<GenerationSubscriber>& weak) {
      if (auto listener = weak.lock()) {
        all.push_back(std::move(listener));
      }
    };
    for (const Hold& hold : holds_) {
      add(hold.subscriber);
    }
    for (const auto& listener : listeners_) {
      add(listener);
    }
    return all;
  }

 private:
  struct Hold {
    std::weak_ptr<GenerationSubscriber> subscriber;
    TimePoint until;
  };
  std::vector<Hold> holds_;
  std::vector<std::weak_ptr<GenerationSubscriber>> listeners_;
  TimePoint kept_until_ = TimePoint::min();
};

}  // namespace patchflow

#include "server/request_queue.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace patchflow {
namespace {

int Rank(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_HIGH:
      return 0;
    case v1::PRIORITY_LOW:
      return 2;
    default:
      return 1;
  }
}

}  // namespace

bool PriorityThenArrival(const QueueEntry& a, const QueueEntry& b, Clock::time_point /*now*/) {
  if (a.again != b.again) {
    return a.again;
  }
  const int rank_a = Rank(a.generation->spec().priority);
  const int rank_b = Rank(b.generation->spec().priority);
  return rank_a != rank_b ? rank_a < rank_b : a.arrival < b.arrival;
}

RequestQueue::RequestQueue(size_t capacity, QueueOrder order)
    : capacity_(capacity), order_(std::move(order)) {}

absl::Status RequestQueue::Push(std::shared_ptr<Generation> generation) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) {
      return MakeError(absl::StatusCode::kUnavailable, reason::kDraining,
                       "the server is shutting down");
    }
    if (entries_.size() >= capacity_) {
      return MakeError(
          absl::StatusCode::kResourceExhausted, reason::kQueueFull,
          absl::StrCat("the queue is full: ", entries_.size(), " of ", capacity_, " wait"),
          {{"depth", absl::StrCat(entries_.size())}, {"capacity", absl::StrCat(capacity_)}});
    }
    const Generation* key = generation.get();
    entries_[key] = {std::move(generation), false, ++last_arrival_};
  }
  changed_.notify_all();
  return absl::OkStatus();
}

void RequestQueue::PushAgain(std::shared_ptr<Generation> generation) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const Generation* key = generation.get();
    entries_[key] = {std::move(generation), true, ++last_arrival_};
  }
  changed_.notify_all();
}

std::shared_ptr<Generation> RequestQueue::Pop(const std::string& plan_digest, absl::Duration wait) {
  const auto until = Clock::now() + ToClock(wait);
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t interrupts = interrupts_;
  while (true) {
    const auto now = Clock::now();
    auto first = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->second.generation->spec().accepted.plan_digest() == plan_digest &&
          (first == entries_.end() || order_(it->second, first->second, now))) {
        first = it;
      }
    }
    if (first != entries_.end()) {
      auto generation = std::move(first->second.generation);
      entries_.erase(first);
      return generation;
    }
    if ((closed_ && entries_.empty()) || interrupts_ != interrupts || now >= until) {
      return nullptr;
    }
    changed_.wait_until(lock, until);
  }
}

void RequestQueue::Interrupt() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++interrupts_;
  }
  changed_.notify_all();
}

void RequestQueue::Close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

std::vector<std::shared_ptr<Generation>> RequestQueue::Take(
    const std::optional<std::string>& plan_digest) {
  std::vector<std::shared_ptr<Generation>> taken;
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (!plan_digest.has_value() ||
        it->second.generation->spec().accepted.plan_digest() == *plan_digest) {
      taken.push_back(std::move(it->second.generation));
      it = entries_.erase(it);
    } else {
      ++it;
    }
  }
  return taken;
}

void RequestQueue::Remove(const Generation& generation) {
  std::shared_ptr<Generation> dropped;
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = entries_.find(&generation);
  if (found != entries_.end()) {
    dropped = std::move(found->second.generation);
    entries_.erase(found);
  }
}

std::vector<std::shared_ptr<Generation>> RequestQueue::Ahead(
    const std::shared_ptr<Generation>& generation) const {
  std::vector<std::shared_ptr<Generation>> ahead;
  const QueueEntry probe{generation, false, UINT64_MAX};
  const auto now = Clock::now();
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [key, entry] : entries_) {
    if (entry.generation->spec().accepted.plan_digest() ==
            generation->spec().accepted.plan_digest() &&
        order_(entry, probe, now)) {
      ahead.push_back(entry.generation);
    }
  }
  return ahead;
}

size_t RequestQueue::SizeOf(const std::string& plan_digest) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<size_t>(
      std::count_if(entries_.begin(), entries_.end(), [&](const auto& entry) {
        return entry.second.generation->spec().accepted.plan_digest() == plan_digest;
      }));
}

size_t RequestQueue::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return entries_.size();
}

absl::Duration RequestQueue::OldestAge() const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto oldest = Clock::time_point::max();
  for (const auto& [key, entry] : entries_) {
    oldest = std::min(oldest, entry.generation->created());
  }
  return entries_.empty() ? absl::ZeroDuration() : absl::FromChrono(Clock::now() - oldest);
}

std::vector<std::shared_ptr<Generation>> RequestQueue::InOrder() const {
  std::vector<QueueEntry> entries;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [key, entry] : entries_) {
      entries.push_back(entry);
    }
  }
  const auto now = Clock::now();
  std::sort(entries.begin(), entries.end(),
            [&](const QueueEntry& a, const QueueEntry& b) { return order_(a, b, now); });
  std::vector<std::shared_ptr<Generation>> generations;
  generations.reserve(entries.size());
  for (QueueEntry& entry : entries) {
    generations.push_back(std::move(entry.generation));
  }
  return generations;
}

}  // namespace patchflow

#include "server/request_queue.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/draining.h"
#include "server/errors.h"
#include "server/pass_shape.h"

namespace patchflow {
namespace {

constexpr double kUnknownCost = 1;  // Device seconds.

int ClassOf(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_HIGH:
      return 0;
    case v1::PRIORITY_LOW:
      return 2;
    default:
      return 1;
  }
}

int ImagesOf(const Generation& generation) {
  return static_cast<int>(generation.MissingImages().size());
}

double CostOf(const Generation& generation) {
  const v1::Cost& cost = generation.spec().accepted.cost();
  return cost.has_gpu_time() ? absl::ToDoubleSeconds(FromProto(cost.gpu_time())) : kUnknownCost;
}

}  // namespace

RequestQueue::RequestQueue(const QueueBounds& bounds) : bounds_(bounds) {}

RequestQueue::Key RequestQueue::KeyOf(const Entry& entry, Clock::time_point now) const {
  const GenerationSpec& spec = entry.generation->spec();
  const absl::Duration waited = absl::FromChrono(now - entry.generation->created());
  absl::Duration rest;
  const int64_t lifted = absl::IDivDuration(waited, bounds_.ageing, &rest);
  const auto priority = std::max<int64_t>(0, ClassOf(spec.priority) - std::max<int64_t>(0, lifted));
  return {!entry.again, static_cast<int>(priority), shares_.ShareOf(spec.owner.client),
          spec.deadline.value_or(Clock::time_point::max()), entry.arrival};
}

bool RequestQueue::HasPlan(const Entry& entry, const std::string& plan_digest) {
  return entry.generation->spec().accepted.plan_digest() == plan_digest;
}

absl::Status RequestQueue::CheckBounds(const Generation& generation) const {
  if (closed_) {
    return DrainingError();
  }
  const absl::Duration work = work_.total();
  const ErrorMetadata facts{{"depth", absl::StrCat(entries_.size())},
                            {"capacity", absl::StrCat(bounds_.requests)},
                            {"queued_work_ms", absl::StrCat(absl::ToInt64Milliseconds(work))},
                            {"max_work_ms", absl::StrCat(absl::ToInt64Milliseconds(bounds_.work))}};
  if (entries_.size() >= bounds_.requests) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, reason::kQueueFull,
        absl::StrCat("the queue is full: ", entries_.size(), " of ", bounds_.requests, " wait"),
        facts);
  }
  const absl::Duration with = work_.With(generation);
  if (!entries_.empty() && with > bounds_.work) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, reason::kQueueFull,
        absl::StrCat("the queue is full: work of ", absl::ToInt64Milliseconds(work), " ms waits, ",
                     absl::ToInt64Milliseconds(with - work), " ms more would pass ",
                     absl::ToInt64Milliseconds(bounds_.work), " ms"),
        facts);
  }
  return absl::OkStatus();
}

void RequestQueue::Insert(std::shared_ptr<Generation> generation, bool again) {
  const Generation* key = generation.get();
  shares_.Enter(generation->spec().owner.client);
  work_.Add(*generation);
  entries_[key] = {std::move(generation), again, ++last_arrival_};
}

std::shared_ptr<Generation> RequestQueue::Drop(Entries::iterator entry) {
  auto generation = std::move(entry->second.generation);
  entries_.erase(entry);
  work_.Remove(*generation);
  shares_.Leave(generation->spec().owner.client);
  return generation;
}

absl::Status RequestQueue::Push(std::shared_ptr<Generation> generation) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (absl::Status status = CheckBounds(*generation); !status.ok()) {
      return status;
    }
    Insert(std::move(generation), false);
  }
  changed_.notify_all();
  return absl::OkStatus();
}

void RequestQueue::PushAgain(std::shared_ptr<Generation> generation) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Insert(std::move(generation), true);
  }
  changed_.notify_all();
}

std::vector<std::shared_ptr<Generation>> RequestQueue::PopBatch(const std::string& plan_digest,
                                                                int rows, absl::Duration wait) {
  const auto until = Clock::now() + ToClock(wait);
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t interrupts = interrupts_;
  while (true) {
    if (const auto entries = BatchLocked(plan_digest, rows); !entries.empty()) {
      return ServeLocked(entries);
    }
    if ((closed_ && entries_.empty()) || interrupts_ != interrupts || Clock::now() >= until) {
      return {};
    }
    changed_.wait_until(lock, until);
  }
}

std::vector<std::shared_ptr<Generation>> RequestQueue::PeekBatch(const std::string& plan_digest,
                                                                 int rows) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::shared_ptr<Generation>> batch;
  for (const auto& entry : BatchLocked(plan_digest, rows)) {
    batch.push_back(entry->second.generation);
  }
  return batch;
}

std::vector<std::shared_ptr<Generation>> RequestQueue::ServeLocked(
    const std::vector<Entries::const_iterator>& batch) {
  int images = 0;
  for (const auto& entry : batch) {
    images += ImagesOf(*entry->second.generation);
  }
  std::vector<std::shared_ptr<Generation>> served;
  for (const auto& entry : batch) {
    const auto& generation = served.emplace_back(entry->second.generation);
    const double part = static_cast<double>(ImagesOf(*generation)) / std::max(1, images);
    const double cost = entry->second.again ? 0 : CostOf(*generation) * part;
    entries_.erase(entry);
    work_.Remove(*generation);
    shares_.Serve(generation->spec().owner.client, cost);
  }
  return served;
}

std::vector<RequestQueue::Entries::const_iterator> RequestQueue::BatchLocked(
    const std::string& plan_digest, int rows) const {
  const auto first = NextLocked(plan_digest);
  if (first == entries_.end()) {
    return {};
  }
  std::vector<Entries::const_iterator> batch = {first};
  int room = rows - ImagesOf(*first->second.generation);
  if (room <= 0 || first->second.generation->suspect()) {
    return batch;
  }
  for (const auto& alike : AlikeLocked(first)) {
    const int images = ImagesOf(*alike->second.generation);
    if (images <= room) {
      batch.push_back(alike);
      room -= images;
    }
  }
  return batch;
}

std::vector<RequestQueue::Entries::const_iterator> RequestQueue::AlikeLocked(
    Entries::const_iterator first) const {
  const GenerationSpec& wanted = first->second.generation->spec();
  const PassShape shape = PassShapeOf(wanted.params());
  const auto now = Clock::now();
  std::vector<std::pair<Key, Entries::const_iterator>> alike;
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    const Generation& generation = *it->second.generation;
    if (it != first && HasPlan(it->second, wanted.accepted.plan_digest()) &&
        PassShapeOf(generation.spec().params()) == shape && !generation.suspect()) {
      alike.emplace_back(KeyOf(it->second, now), it);
    }
  }
  std::sort(alike.begin(), alike.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Entries::const_iterator> ordered;
  for (const auto& [key, entry] : alike) {
    ordered.push_back(entry);
  }
  return ordered;
}

RequestQueue::Entries::const_iterator RequestQueue::NextLocked(
    const std::string& plan_digest) const {
  const auto now = Clock::now();
  auto first = entries_.end();
  Key least;
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (HasPlan(it->second, plan_digest)) {
      const Key key = KeyOf(it->second, now);
      if (first == entries_.end() || key < least) {
        first = it;
        least = key;
      }
    }
  }
  return first;
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
    const auto entry = it++;
    if (!plan_digest.has_value() || HasPlan(entry->second, *plan_digest)) {
      taken.push_back(Drop(entry));
    }
  }
  return taken;
}

bool RequestQueue::Remove(const Generation& generation) {
  std::shared_ptr<Generation> dropped;
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = entries_.find(&generation);
  if (found == entries_.end()) {
    return false;
  }
  dropped = Drop(found);
  return true;
}

std::vector<std::shared_ptr<Generation>> RequestQueue::Ahead(
    const std::shared_ptr<Generation>& generation) const {
  std::vector<std::shared_ptr<Generation>> ahead;
  const auto now = Clock::now();
  std::lock_guard<std::mutex> lock(mutex_);
  const Key own = KeyOf({generation, false, UINT64_MAX}, now);
  for (const auto& [key, entry] : entries_) {
    if (HasPlan(entry, generation->spec().accepted.plan_digest()) && KeyOf(entry, now) < own) {
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

absl::Duration RequestQueue::Work() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return work_.total();
}

std::vector<std::shared_ptr<Generation>> RequestQueue::InOrder() const {
  std::vector<std::pair<Key, std::shared_ptr<Generation>>> keyed;
  {
    const auto now = Clock::now();
    std::lock_guard<std::mutex> lock(mutex_);
    keyed.reserve(entries_.size());
    for (const auto& [key, entry] : entries_) {
      keyed.emplace_back(KeyOf(entry, now), entry.generation);
    }
  }
  std::sort(keyed.begin(), keyed.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::shared_ptr<Generation>> generations;
  generations.reserve(keyed.size());
  for (auto& [key, generation] : keyed) {
    generations.push_back(std::move(generation));
  }
  return generations;
}

}  // namespace patchflow

#include "server/trace_ring.h"

#include <utility>

namespace patchflow {

void TraceRing::Drop(std::map<GenerationKey, Entries::iterator>::iterator found) {
  bytes_ -= found->second->bytes;
  entries_.erase(found->second);
  by_key_.erase(found);
}

void TraceRing::DropOldest() { Drop(by_key_.find(entries_.front().trace->key())); }

std::map<GenerationKey, TraceRing::Entries::iterator>::iterator TraceRing::FindLocked(
    const RequestTrace& trace) {
  auto found = by_key_.find(trace.key());
  return found != by_key_.end() && found->second->trace.get() == &trace ? found : by_key_.end();
}

void TraceRing::Add(std::shared_ptr<RequestTrace> trace) {
  if (max_traces_ == 0) {
    return;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (auto older = by_key_.find(trace->key()); older != by_key_.end()) {
    Drop(older);
  }
  if (entries_.size() == max_traces_) {
    DropOldest();
  }
  entries_.push_back({std::move(trace), 0});
  by_key_[entries_.back().trace->key()] = std::prev(entries_.end());
}

void TraceRing::Ended(const RequestTrace& trace) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = FindLocked(trace);
  if (found == by_key_.end()) {
    return;
  }
  Entry& entry = *found->second;
  bytes_ += trace.bytes() - entry.bytes;
  entry.bytes = trace.bytes();
  while (bytes_ > max_bytes_) {
    DropOldest();
  }
}

void TraceRing::Forget(const RequestTrace& trace) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (auto found = FindLocked(trace); found != by_key_.end()) {
    Drop(found);
  }
}

std::shared_ptr<const RequestTrace> TraceRing::Find(const GenerationKey& key) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : found->second->trace;
}

size_t TraceRing::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return entries_.size();
}

size_t TraceRing::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

}  // namespace patchflow

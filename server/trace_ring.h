// The traces of the last generations.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>

#include "server/request_trace.h"

namespace patchflow {

// Bounded in number, and in the memory of what has ended. Thread-safe; nothing takes longer than a
// look-up.
class TraceRing {
 public:
  // No trace is kept if `traces` is 0.
  TraceRing(size_t traces, size_t bytes) : max_traces_(traces), max_bytes_(bytes) {}

  // In place of an older one with the same key; the oldest goes if there are too many.
  void Add(std::shared_ptr<RequestTrace> trace);
  // It grows no more; the oldest go if all that have ended hold too much.
  void Ended(const RequestTrace& trace);
  void Forget(const RequestTrace& trace);
  // Null if there is none.
  std::shared_ptr<const RequestTrace> Find(const GenerationKey& key) const;
  size_t size() const;
  size_t bytes() const;

 private:
  struct Entry {
    std::shared_ptr<RequestTrace> trace;
    size_t bytes = 0;  // As counted.
  };
  using Entries = std::list<Entry>;  // From the oldest.
  // Nothing if it is gone, or another has taken its key.
  std::map<GenerationKey, Entries::iterator>::iterator FindLocked(const RequestTrace& trace);
  void DropOldest();
  void Drop(std::map<GenerationKey, Entries::iterator>::iterator found);

  const size_t max_traces_;
  const size_t max_bytes_;
  mutable std::mutex mutex_;
  Entries entries_;
  std::map<GenerationKey, Entries::iterator> by_key_;
  size_t bytes_ = 0;
};

}  // namespace patchflow

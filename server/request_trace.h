// What was done when for one generation.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "patchflow/v1/image_generation.pb.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"
#include "server/generation.h"
#include "server/trace_context.h"

namespace patchflow {

// Where a generation comes from.
struct TraceOrigin {
  Clock::time_point arrived = Clock::now();
  std::optional<TraceContext> parent;  // The caller's span.
};

// Written by those that do the work, a few times an image: what workers report is kept as it came,
// and made into spans only when somebody asks. Thread-safe.
class RequestTrace {
 public:
  // One worker's report of an image.
  struct Report {
    worker::v1::ImageTrace image;
    Clock::time_point received;  // image.arrived_ns, if that is set.
  };
  struct Encode {
    int image_index = 0;
    worker::v1::PhaseSpan span;
  };
  // One job at a group.
  struct Run {
    std::string group;
    int attempt = 1;
    Clock::time_point begin;
    std::optional<Clock::time_point> end;
    absl::Status status;
    std::vector<Report> reports;
    std::vector<Encode> encodes;
  };
  struct Wait {
    Clock::time_point begin;
    std::optional<Clock::time_point> end;
  };
  // All of it, at one moment.
  struct Record {
    std::string request_id;
    std::string model;
    TraceContext root;         // The span of the whole.
    uint64_t parent_span = 0;  // Of the caller; 0: none.
    Clock::time_point arrived;
    absl::Time arrived_at;  // The same by the wall clock.
    Clock::time_point accepted;
    std::optional<Clock::time_point> ended;
    absl::Status status;
    std::optional<Clock::time_point> sent;
    std::vector<Wait> waits;
    std::vector<Run> runs;
  };

  // Of a generation that is about to be queued. `sampled`: whether it is exported, if the caller
  // did not decide that.
  RequestTrace(const GenerationSpec& spec, const TraceOrigin& origin, bool sampled);

  const GenerationKey& key() const { return key_; }
  bool sampled() const { return record_.root.sampled; }
  // Memory, about.
  size_t bytes() const { return bytes_; }

  // A group begins with it: the context to hand on.
  TraceContext BeginRun(const std::string& group, int attempt);
  void EndRun(const absl::Status& status);
  // It waits again.
  void Requeued();
  // Of the present run. What would make it larger than 256 KiB is dropped.
  void AddReport(worker::v1::ImageTrace image);
  void AddEncode(int image_index, const worker::v1::PhaseSpan& span);
  // The generation has ended. The first call counts.
  void End(const absl::Status& status);
  // A client has all of it. The first call counts.
  void Sent();

  Record record() const;

 private:
  const GenerationKey key_;
  std::atomic<size_t> bytes_;
  mutable std::mutex mutex_;
  Record record_;
};

// The number of the span of run `n`, from 0, of this root.
uint64_t RunSpan(uint64_t root, size_t n);
// And of wait `n`.
uint64_t WaitSpan(uint64_t root, size_t n);

}  // namespace patchflow

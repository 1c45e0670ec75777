// Calls that come at about the same time, collected to be made in one pass over the network.
#pragma once

#include <chrono>
#include <memory>
#include <stop_token>
#include <vector>

#include "worker/job.h"
#include "worker/job_agreement.h"

namespace patchflow {

// How long the first call of a batch waits for others, at most.
inline constexpr std::chrono::milliseconds kBatchDelay{5};

struct BatchCall {
  Job job;               // Of one image at least.
  std::stop_token stop;  // Requested when nobody wants its images any more.
  std::shared_ptr<JobEvents> events;
  std::shared_ptr<JobAgreement> agreement = nullptr;  // Of a share, whose batch size is 1.
};

// Whether both can be rows of one pass: all is equal but what BatchedImage holds.
bool SameShape(const ImageRequest& a, const ImageRequest& b);

// One call, whose images may take several passes, or several, whose images take one. Not
// thread-safe.
class Batch {
 public:
  using Clock = std::chrono::steady_clock;

  // `batch_size`: rows of each pass. Begun now.
  Batch(BatchCall first, int batch_size, Clock::duration delay = kBatchDelay);

  // Whether `job` has the shape of the others and there are rows left for all of its images.
  bool Fits(const Job& job) const;
  void Add(BatchCall call);  // One that fits.

  // Whether to wait for nobody else.
  bool full() const { return images_ >= batch_size_; }
  Clock::time_point deadline() const { return deadline_; }

  int batch_size() const { return batch_size_; }
  const std::vector<BatchCall>& calls() const { return calls_; }  // In the order of their rows.

 private:
  const int batch_size_;
  const Clock::time_point deadline_;
  std::vector<BatchCall> calls_;
  int images_ = 0;  // Of all calls.
};

}  // namespace patchflow

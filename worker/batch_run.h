// A batch on its ranks: its images pass by pass, each call told its own.
#pragma once

#include <functional>
#include <stop_token>
#include <vector>

#include "absl/status/status.h"
#include "worker/batch.h"
#include "worker/encoder.h"
#include "worker/rank_group.h"

namespace patchflow {

// How a call stands when the ranks are idle.
struct CallEnd {
  // What came of all but what is left.
  absl::Status status;
  // What is left: encodes the images of the last pass and hands them over, and says what came of
  // that. Blocks; any thread. Empty if no image is left.
  std::function<absl::Status()> last_images;
};

// Makes the images of all calls, so many in a pass as the batch has rows. Blocks until the ranks
// are idle and every image but those of the last pass was handed over: none by a group without
// rank 0. While a pass is made, the images of the one before are encoded, for each call one after
// the other. The result is by call. Does not call OnRanksFree() and OnEnd(), and what image
// requests would show previews to.
//
// Stops at `stop`, and once the `stop` of every call is requested; a call that alone is given up is
// made to the end, as rows of a pass can't be left out, and is then CANCELLED. Where other
// processes take part, stops when the call's agreement says so, and for nothing else. What else
// ends a pass ends all calls with the status of RankGroup::Run, but for images that are not finite
// beside others that are: their calls alone are INTERNAL / NON_FINITE_OUTPUT, once their other
// images were handed over.
//
// `encoder`, which knows earlier jobs, outlives what is left, and so do the calls' events.
// `await_earlier`: called before there is an image to encode, and blocks while what is left of a
// batch before is; may be empty. Other statuses are Encoder's.
std::vector<CallEnd> RunBatch(RankGroup& group, const Batch& batch, const std::stop_token& stop,
                              Encoder& encoder,
                              const std::function<void()>& await_earlier = nullptr);

}  // namespace patchflow

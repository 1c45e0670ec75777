#include "server/draining.h"

#include <string>

#include "server/errors.h"
#include "server/random.h"

namespace patchflow {
namespace {

absl::Status Draining(const std::string& message) {
  return WithRetry(MakeError(absl::StatusCode::kUnavailable, reason::kDraining, message),
                   Jittered(absl::Seconds(1)));
}

}  // namespace

absl::Status DrainingError() { return Draining("the server is shutting down"); }

absl::Status DrainedError() { return Draining("the server shut down before the images were made"); }

absl::Status ReplacedError() {
  return MakeError(absl::StatusCode::kUnavailable, reason::kPlanChanged,
                   "the model's weights were replaced before the images were made");
}

}  // namespace patchflow

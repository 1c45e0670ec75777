// Time within the server: it never goes back, whatever happens to the wall clock.
#pragma once

#include <chrono>

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"

namespace patchflow {

using Clock = std::chrono::steady_clock;

inline google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

inline google::protobuf::Duration ToProto(Clock::duration duration) {
  return ToProto(absl::FromChrono(duration));
}

inline absl::Duration FromProto(const google::protobuf::Duration& proto) {
  return absl::Seconds(proto.seconds()) + absl::Nanoseconds(proto.nanos());
}

inline Clock::duration ToClock(absl::Duration duration) {
  return std::chrono::duration_cast<Clock::duration>(absl::ToChronoNanoseconds(duration));
}

}  // namespace patchflow

// What a fake worker tells while it makes an image.
#pragma once

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"

namespace patchflow {

using FakeEvents = grpc::ServerWriter<worker::v1::ExecuteResponse>;

inline constexpr absl::Duration kFlush = absl::Nanoseconds(1);

// Of an event that others follow after `pause`. Not of the first event of a call: a write that
// carries initial metadata and may wait is not done before another goes out (gRPC 1.51).
inline grpc::WriteOptions Before(absl::Duration pause) {
  grpc::WriteOptions options;
  return pause > absl::ZeroDuration() ? options : options.set_buffer_hint();
}

// `pause`: until the next event.
inline void SendStep(FakeEvents& events, int index, worker::v1::JobPhase phase, int steps,
                     absl::Duration pause) {
  worker::v1::ExecuteResponse event;
  event.mutable_step()->set_image_index(index);
  event.mutable_step()->set_phase(phase);
  event.mutable_step()->set_steps_done(steps);
  events.Write(event, Before(pause));
}

inline void SendPreview(FakeEvents& events, const worker::v1::ExecuteRequest& request, int index,
                        int step) {
  if (request.preview_every_steps() > 0 && step % request.preview_every_steps() == 0) {
    worker::v1::ExecuteResponse event;
    event.mutable_preview()->set_image_index(index);
    event.mutable_preview()->set_step(step);
    event.mutable_preview()->set_format(v1::IMAGE_FORMAT_PNG);
    event.mutable_preview()->set_data(absl::StrCat("preview ", step));
    events.Write(event);
  }
}

}  // namespace patchflow

// Draws and encodes the previews of a job on a thread of its own, beside the ranks.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "engine/image/metadata.h"
#include "engine/preview.h"
#include "worker/job.h"

namespace patchflow {

// Only the newest preview waits: one that comes takes the place of one that nobody has begun to
// draw. Thread-safe.
class Previewer {
 public:
  // `events` must outlive this. `metadata`: of every preview.
  explicit Previewer(JobEvents& events, Metadata metadata = {});
  // Ends the thread. One that is still drawing after a second, which waits for a device that hangs,
  // is left behind and hands over nothing.
  ~Previewer();
  Previewer(const Previewer&) = delete;
  Previewer& operator=(const Previewer&) = delete;

  // What a request shows its previews to, for the image that is being made. May be called, and
  // kept, for ever: after Finish() it does nothing.
  std::function<void(int steps_done, DrawPreview draw)> Of(int image_index);

  // Returns when the newest preview of the image was handed to events.OnPreview(), as it mostly was
  // while the image was decoded, but after a second at the latest; what is not handed over by then
  // never is. So previews of an image come before the image.
  void Finish();

 private:
  struct State;
  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace patchflow

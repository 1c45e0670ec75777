// Draws and encodes the previews of a batch on a thread of its own, beside the ranks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "engine/image/metadata.h"
#include "engine/preview.h"
#include "worker/job.h"

namespace patchflow {

// Only the newest preview of an image waits: one that comes takes the place of one that nobody has
// begun to draw. Thread-safe.
class Previewer {
 public:
  Previewer();
  // Ends the thread. One that is still drawing after a second, which waits for a device that hangs,
  // is left behind and hands over nothing.
  ~Previewer();
  Previewer(const Previewer&) = delete;
  Previewer& operator=(const Previewer&) = delete;

  // What a request shows its previews to, for an image of the pass that is being made, which is
  // told `events`; `metadata`: of every preview; `request_id`: for logs. May be called, and kept,
  // for ever: after Finish() it does nothing, and `events` may go.
  std::function<void(int steps_done, DrawPreview draw)> Of(JobEvents& events, int image_index,
                                                           Metadata metadata = {},
                                                           std::string request_id = {});

  // Ends the pass. Returns when the newest preview of each image was handed to its OnPreview(), as
  // it mostly was while the images were decoded, but after a second at the latest; what is not
  // handed over by then never is. So previews of an image come before the image.
  void Finish();

 private:
  struct State;
  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace patchflow

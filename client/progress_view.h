// Shows a person how a generation gets on.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "client/console.h"
#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

class ProgressView {
 public:
  virtual ~ProgressView() = default;
  virtual void Accepted(const v1::Accepted& accepted) = 0;
  virtual void Progress(const v1::Progress& progress) = 0;
  // One line of text that stays.
  virtual void Note(const std::string& text) = 0;
  // Takes away what is not to stay. Call it before anyone else writes to the console, and at the
  // end.
  virtual void Clear() = 0;
};

// On a terminal a bar that is drawn over, elsewhere lines, one for each change of state and at most
// one a second for steps. Writes to console.err, which outlives it.
std::unique_ptr<ProgressView> MakeProgressView(Console& console);
// Shows notes only.
std::unique_ptr<ProgressView> MakeQuietView(Console& console);

// "queued, 3 before it", "step 9 of 20, image 1 of 3, 2.1 s, eta 3.4 s", "... attempt 2".
// `num_images`: all in all.
std::string ProgressText(const v1::Progress& progress, int num_images);
// The same behind a bar, in at most `columns` characters.
std::string ProgressBarText(const v1::Progress& progress, int num_images, int columns);

}  // namespace patchflow

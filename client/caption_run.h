// Draws the images of a caption file, several at a time.
#pragma once

#include "client/caption_plan.h"
#include "client/connection.h"
#include "client/console.h"
#include "client/display_options.h"
#include "client/interrupt.h"

namespace patchflow {

// What drawing a plan needs; outlives the call.
struct CaptionRun {
  const CaptionPlan& plan;
  const GenerateOptions& generate;
  const DisplayOptions& display;
  const Connection& connection;
  int in_flight = 1;
};

// Asks for the missing images, `in_flight` at a time, and writes each file whole or not at all. An
// image that fails is tried again after the others, unless the server refused it. Stops early when
// many in a row fail, and at once on the interrupt. Tells on console.err how far it is and how long
// it will take, and lists at the end what failed; with --json prints a line for each try, that of
// ResultJson with the image's "number". Returns the exit status, that of the first image that
// failed for good.
int RunCaptions(const CaptionRun& run, Console& console, Interrupt& interrupt);

// "123 of 2000, 1 failed, 2.3 images/s, 13m36s left". `drawn` took `elapsed`; `present` were there
// before; `total` counts all.
std::string CaptionProgressText(int drawn, int failed, int present, int total,
                                absl::Duration elapsed);

}  // namespace patchflow

// How a generation is shown: the options that generate and fetch have in common.
#pragma once

#include <CLI/App.hpp>
#include <memory>
#include <string>

#include "client/console.h"
#include "client/generation_result.h"
#include "client/progress_view.h"

namespace patchflow {

struct DisplayOptions {
  std::string out;
  bool json = false;
  bool quiet = false;
};

// `out`: the default of --out.
void AddDisplayOptions(CLI::App& command, DisplayOptions& options, const std::string& out);

std::unique_ptr<ProgressView> MakeView(const DisplayOptions& options, Console& console);

// After the images: the timings or the JSON line, and the error if there is one. Returns the exit
// status.
int Show(const DisplayOptions& options, const GenerationResult& result, Console& console);

}  // namespace patchflow

// Which images a caption file asks for, and which of them are there already.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/generate_options.h"
#include "client/output_path.h"

namespace patchflow {

struct CaptionOptions {
  std::string file;
  std::string part;  // "K/N", K from 1.
  int first = 0;     // Only so many captions from the beginning; 0: all.
  int in_flight = 4;
};

void AddCaptionOptions(CLI::App& command, CaptionOptions& options);

struct NumberRange {
  int begin = 0;
  int end = 0;
};

// The numbers of part "K/N" of so many: parts are contiguous, and together they are all. "" is all.
// INVALID_ARGUMENT unless 1 <= K <= N.
absl::StatusOr<NumberRange> RangeOfPart(const std::string& part, int count);

// Image i shows caption i and has the seed first_seed + i.
struct CaptionPlan {
  std::vector<std::string> captions;  // Of the whole file.
  uint64_t first_seed = 0;
  OutputPattern out;
  std::vector<int> missing;  // Numbers of this part's images that have no file yet, ascending.
  int present = 0;           // Those of this part that have one.
  std::string record_path;   // Of the JSON file that says how the images of the folder were made.
  std::string record;
};

// Reads the captions and looks for the images. `out`: a pattern, or a folder if it ends with '/';
// "" is {prompt}.{ext}, with five digits. INVALID_ARGUMENT names the option or file that is wrong,
// also when the folder's images were made from other captions or with other parameters, or nothing
// says how they were made.
absl::StatusOr<CaptionPlan> PlanCaptions(const CaptionOptions& options,
                                         const GenerateOptions& generate, const std::string& out);

}  // namespace patchflow

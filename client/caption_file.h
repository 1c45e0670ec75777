// The captions of an evaluation, one an image, from the files that data sets come in.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

// Caption i is that of image i. What the file holds is told by the end of its name:
//  .json  Karpathy's dataset_coco.json: the first sentence of each image, in the file's order; or
//         COCO's captions_*.json: the first annotation of each image, in the order of `images`.
//  .tsv   PartiPrompts: the column Prompt, with quotes as in RFC 4180.
//  other  Plain text: a caption a line; empty lines are passed over.
// Blanks round the captions of JSON and TSV files are cut off. INVALID_ARGUMENT names --captions,
// the file and the place in it: unreadable, malformed, an image or a row without a caption, not
// UTF-8, no captions. Holds the captions of the whole file, 0.2 GB for the 616,000 of COCO.
absl::StatusOr<std::vector<std::string>> ReadCaptions(const std::string& file);

}  // namespace patchflow

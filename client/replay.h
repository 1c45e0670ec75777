// An image made again: the request that its metadata names, and how the new one compares.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

using ImageTexts = std::map<std::string, std::string>;

// What `texts` says was drawn, as a request for one file of this format with metadata; its
// request_id is left empty. A format that loses something must tell its quality. INVALID_ARGUMENT
// lists every field that is missing or can't be read.
absl::StatusOr<v1::GenerateImagesRequest> RequestOfTexts(const ImageTexts& texts,
                                                         v1::ImageFormat format,
                                                         absl::Duration timeout);

struct TextDifference {
  std::string field;
  std::string then;  // Empty if it was not told.
  std::string now;
};

struct Comparison {
  bool same_file = false;  // Byte by byte.
  // Of the pixels' bytes.
  bool same_size = false;
  uint64_t different = 0;
  uint64_t total = 0;
  int largest = 0;     // Difference of a byte.
  double psnr_db = 0;  // Of those that differ somewhere.
  std::vector<TextDifference> texts;

  bool same_picture() const { return same_size && different == 0; }
};

// Of two image files. INVALID_ARGUMENT, beginning with "the image made again" if that is the one,
// for what is none (see FormatOfFile()).
absl::StatusOr<Comparison> CompareImages(std::string_view then, std::string_view now);

// "identical", or in several lines what differs: the picture, the fields of the plan, others. No
// line feed at the end.
std::string RenderComparison(const Comparison& comparison);

// {"identical", "same_picture", "differences": [{"field", "then", "now"}]}, and of another picture
// {"different", "total", "largest", "psnr_db"}.
nlohmann::json ComparisonJson(const Comparison& comparison);

}  // namespace patchflow

#include "client/text_file.h"

#include <google/protobuf/stubs/common.h>

#include <fstream>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace patchflow {

absl::Status CheckUtf8(const std::string& what, const std::string& text) {
  if (google::protobuf::internal::IsStructurallyValidUTF8(text)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, ": is not UTF-8"));
}

absl::StatusOr<std::vector<std::string>> ReadLines(const std::string& option,
                                                   const std::string& file) {
  std::ifstream opened;
  if (file != "-") opened.open(file);
  std::istream& input = file == "-" ? std::cin : opened;
  std::vector<std::string> lines;
  int number = 0;
  for (std::string line; std::getline(input, line);) {
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (absl::Status status = CheckUtf8(absl::StrCat(option, ": ", file, ":", number), line);
        !status.ok()) {
      return status;
    }
    if (!line.empty()) lines.push_back(line);
  }
  if (!input.eof()) return absl::InvalidArgumentError(absl::StrCat(option, ": can't read ", file));
  if (lines.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", file, " has no prompts"));
  }
  return lines;
}

}  // namespace patchflow

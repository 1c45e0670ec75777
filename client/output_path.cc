#include "client/output_path.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace patchflow {
namespace {

constexpr std::array<std::string_view, 6> kFields = {"prompt",     "index", "seed",
                                                     "request_id", "model", "ext"};

bool IsField(std::string_view name) {
  for (std::string_view field : kFields) {
    if (field == name) return true;
  }
  return false;
}

std::string FileName(const std::string& text) {
  std::string name = text;
  for (char& c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-')
      c = '_';
  }
  if (!name.empty() && name[0] == '.') name[0] = '_';
  return name;
}

std::string ValueOf(std::string_view field, const OutputFields& fields, int prompt_digits) {
  if (field == "prompt") return absl::StrFormat("%0*d", prompt_digits, fields.prompt);
  if (field == "index") return absl::StrCat(fields.index);
  if (field == "seed") return absl::StrCat(fields.seed);
  if (field == "request_id") return FileName(fields.request_id);
  if (field == "model") return FileName(fields.model);
  return fields.ext;
}

absl::Status FileError(const std::string& path, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat("can't write ", path));
}

absl::Status WriteInPlace(const std::string& path, std::string_view bytes) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  return file ? absl::OkStatus() : FileError(path, errno == 0 ? EIO : errno);
}

}  // namespace

absl::StatusOr<OutputPattern> OutputPattern::Parse(const std::string& text, int prompt_digits) {
  if (text.empty()) return absl::InvalidArgumentError("--out: the path is empty");
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '}')
      return absl::InvalidArgumentError(
          absl::StrCat("--out: \"", text, "\" has a } without its {"));
    if (text[i] != '{') continue;
    const size_t end = text.find('}', i);
    if (end == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("--out: \"", text, "\" has a { without its }"));
    }
    const std::string name = text.substr(i + 1, end - i - 1);
    if (!IsField(name)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--out: {", name, "} is none of {prompt} {index} {seed} {request_id} {model} {ext}"));
    }
    i = end;
  }
  OutputPattern pattern;
  pattern.text_ = text;
  pattern.prompt_digits_ = prompt_digits;
  return pattern;
}

bool OutputPattern::Has(std::string_view field) const {
  return text_.find(absl::StrCat("{", std::string(field), "}")) != std::string::npos;
}

absl::Status OutputPattern::CheckDistinct(int num_prompts, int count) const {
  if (num_prompts > 1 && !Has("prompt") && !Has("request_id")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--out: \"", text_, "\" would be the file of ", num_prompts,
                     " prompts: put {prompt} or {request_id} into it"));
  }
  if (count > 1 && !Has("index") && !Has("seed")) {
    return absl::InvalidArgumentError(absl::StrCat("--out: \"", text_, "\" would be the file of ",
                                                   count,
                                                   " images: put {index} or {seed} into it"));
  }
  return absl::OkStatus();
}

std::string OutputPattern::Expand(const OutputFields& fields) const {
  std::string path;
  for (size_t i = 0; i < text_.size(); ++i) {
    if (text_[i] != '{') {
      path.push_back(text_[i]);
      continue;
    }
    const size_t end = text_.find('}', i);
    path += ValueOf(std::string_view(text_).substr(i + 1, end - i - 1), fields, prompt_digits_);
    i = end;
  }
  return path;
}

absl::Status WriteFile(const std::string& path, std::string_view bytes) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status present = fs::status(path, error);
  if (fs::exists(present) && !fs::is_regular_file(present)) return WriteInPlace(path, bytes);
  if (const fs::path folder = fs::path(path).parent_path(); !folder.empty()) {
    fs::create_directories(folder, error);
    if (error) return FileError(folder.string(), error.value());
  }
  const std::string part = absl::StrCat(path, ".", getpid(), ".part");
  absl::Status status = WriteInPlace(part, bytes);
  if (status.ok()) {
    fs::rename(part, path, error);
    if (error) status = FileError(path, error.value());
  }
  if (!status.ok()) fs::remove(part, error);
  return status;
}

}  // namespace patchflow

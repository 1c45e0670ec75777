// Image files of the store: one folder, one file an image.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <system_error>

#include "absl/status/status.h"

namespace patchflow {

// Makes `path` for this user alone (mode 0700 less the umask, which stays as it is), and folders
// above it as others make them. One that is there is left as it is.
std::error_code MakePrivateFolder(const std::string& path);

// A file is there whole or not at all, whenever the process or the machine ends: it is written
// under another name, which its folder keeps only until both are on the disk. For one thread at a
// time.
class ImageFolder {
 public:
  explicit ImageFolder(std::string path) : path_(std::move(path)) {}

  // Makes the folder, as MakePrivateFolder() does. UNAVAILABLE, naming it.
  absl::Status Prepare() const;
  // Replaces a file of this name. It is on the disk when this returns. UNAVAILABLE with the
  // system's word for it; nothing is left behind then.
  absl::Status Write(const std::string& name, const std::string& bytes) const;
  // Nothing if there is no such file, or it can't be read, or is longer than `max_bytes`.
  std::optional<std::string> Read(const std::string& name, size_t max_bytes) const;
  void Remove(const std::string& name) const;
  // Removes every file whose name `keeps` does not know; how many those were.
  int RemoveOthers(const std::function<bool(const std::string& name)>& keeps) const;

 private:
  std::string PathOf(const std::string& name) const { return path_ + "/" + name; }

  const std::string path_;
};

}  // namespace patchflow

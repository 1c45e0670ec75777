#include "server/image_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/write_all.h"

namespace patchflow {
namespace {

constexpr char kUnfinished[] = ".part";
constexpr mode_t kFolderMode = 0700;

// Closes its file at the end of a scope.
class OpenFile {
 public:
  OpenFile(const std::string& path, int flags)
      : file_(open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  ~OpenFile() { Close(); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int get() const { return file_; }
  bool Close() {
    const int closing = std::exchange(file_, -1);
    return closing < 0 || close(closing) == 0;
  }

 private:
  int file_;
};

}  // namespace

std::error_code MakePrivateFolder(const std::string& path) {
  std::filesystem::path folder(path);
  if (!folder.has_filename()) {
    folder = folder.parent_path();  // "store/" is "store".
  }
  std::error_code error;
  if (const auto above = folder.parent_path(); !above.empty()) {
    std::filesystem::create_directories(above, error);
  }
  if (mkdir(folder.c_str(), kFolderMode) == 0 || std::filesystem::is_directory(folder, error)) {
    return {};
  }
  return error ? error : std::make_error_code(std::errc::not_a_directory);
}

absl::Status ImageFolder::Prepare() const {
  const std::error_code error = MakePrivateFolder(path_);
  return error ? absl::UnavailableError(absl::StrCat(path_, ": ", error.message()))
               : absl::OkStatus();
}

absl::Status ImageFolder::Write(const std::string& name, const std::string& bytes) const {
  const std::string path = PathOf(name);
  const std::string unfinished = path + kUnfinished;
  OpenFile file(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
  const bool written = file.get() >= 0 && WriteAll(file.get(), bytes) == bytes.size() &&
                       fsync(file.get()) == 0 && file.Close() &&
                       std::rename(unfinished.c_str(), path.c_str()) == 0;
  if (written) {
    const OpenFile folder(path_, O_RDONLY | O_DIRECTORY);
    if (folder.get() >= 0 && fsync(folder.get()) == 0) {
      return absl::OkStatus();
    }
  }
  absl::Status status = absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
  unlink(written ? path.c_str() : unfinished.c_str());
  return status;
}

std::optional<std::string> ImageFolder::Read(const std::string& name, size_t max_bytes) const {
  const OpenFile file(PathOf(name), O_RDONLY);
  struct stat found {};
  if (file.get() < 0 || fstat(file.get(), &found) != 0 || !S_ISREG(found.st_mode) ||
      static_cast<size_t>(found.st_size) > max_bytes) {
    return std::nullopt;
  }
  std::string bytes(static_cast<size_t>(found.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = read(file.get(), bytes.data() + done, bytes.size() - done);
    if (count > 0) {
      done += static_cast<size_t>(count);
    } else if (count == 0 || errno != EINTR) {
      return std::nullopt;
    }
  }
  return bytes;
}

void ImageFolder::Remove(const std::string& name) const { unlink(PathOf(name).c_str()); }

int ImageFolder::RemoveOthers(const std::function<bool(const std::string& name)>& keeps) const {
  std::vector<std::string> others;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path_, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!keeps(name)) {
      others.push_back(name);
    }
  }
  for (const std::string& name : others) {
    Remove(name);
  }
  return static_cast<int>(others.size());
}

}  // namespace patchflow

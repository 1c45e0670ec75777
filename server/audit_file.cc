#include "server/audit_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/write_all.h"

namespace patchflow {
namespace {

constexpr mode_t kMode = 0640;
constexpr size_t kLargestWrite = 1 << 20;

// So that a power failure leaves the file its name.
void SyncFolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const int opened =
      open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (opened >= 0) {
    (void)fsync(opened);  // File systems that cannot do it need not.
    close(opened);
  }
}

absl::Status ErrnoStatus(const std::string& path) {
  return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
}

}  // namespace

AuditFile::AuditFile(const AuditConfig& config)
    : path_(config.file),
      max_bytes_(config.max_bytes),
      max_files_(config.max_files),
      sync_(config.sync) {}

AuditFile::~AuditFile() {
  if (file_ >= 0) {
    close(file_);
  }
}

absl::StatusOr<std::unique_ptr<AuditFile>> AuditFile::Open(const AuditConfig& config) {
  std::error_code ignored;  // The file cannot be opened then.
  std::filesystem::create_directories(std::filesystem::path(config.file).parent_path(), ignored);
  std::unique_ptr<AuditFile> file(new AuditFile(config));
  if (absl::Status status = file->OpenFile(); !status.ok()) {
    return status;
  }
  return file;
}

// Not to wait for a reader of a FIFO, it is opened O_NONBLOCK; writes do wait.
absl::Status AuditFile::OpenFile() {
  const int opened =
      open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, kMode);
  struct stat found {};
  if (opened < 0 || fstat(opened, &found) != 0) {
    absl::Status status = ErrnoStatus(path_);
    if (opened >= 0) {
      close(opened);
    }
    return status;
  }
  fcntl(opened, F_SETFL, O_APPEND);
  file_ = opened;
  regular_ = S_ISREG(found.st_mode);
  size_ = regular_ ? found.st_size : 0;
  if (sync_ && regular_) {
    SyncFolderOf(path_);
  }
  if (size_ == 0) {
    return absl::OkStatus();
  }
  char last = '\n';
  const int reader = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  const bool read = reader >= 0 && pread(reader, &last, 1, size_ - 1) == 1;
  if (reader >= 0) {
    close(reader);
  }
  if (read && last != '\n' && WriteAll(file_, "\n") == 1) {
    ++size_;
  }
  return absl::OkStatus();
}

// "audit.jsonl" and 2 -> "audit.2.jsonl".
std::string AuditFile::NameOf(int number) const {
  if (number == 0) {
    return path_;
  }
  const std::filesystem::path path(path_);
  const std::string name =
      absl::StrCat(path.stem().string(), ".", number, path.extension().string());
  return (path.parent_path() / name).string();
}

absl::Status AuditFile::SetAside() {
  int free = 1;
  while (free < max_files_ && access(NameOf(free).c_str(), F_OK) == 0) {
    ++free;
  }
  for (int number = free; number > 0; --number) {
    if (std::rename(NameOf(number - 1).c_str(), NameOf(number).c_str()) != 0) {
      return ErrnoStatus(NameOf(number));
    }
  }
  const int before = std::exchange(file_, -1);
  absl::Status status = OpenFile();
  if (status.ok()) {
    close(before);
  } else {
    file_ = before;
    (void)std::rename(NameOf(1).c_str(), path_.c_str());
  }
  return status;
}

// The system forgets what it could not bring to the disk, so a sync that failed is not tried again
// alone: its lines are taken out, to be written anew.
size_t AuditFile::WriteOut(std::string_view text) {
  const size_t written = WriteAll(file_, text);
  if (written < text.size()) {
    error_ = std::strerror(errno);
  }
  if (sync_ && regular_ && written > 0 && fdatasync(file_) != 0) {
    error_ = std::strerror(errno);
    if (ftruncate(file_, size_) == 0) {
      return 0;
    }
  }
  size_ += static_cast<int64_t>(written);
  return written;
}

size_t AuditFile::Append(const std::vector<std::string>& lines) {
  size_t done = 0;
  while (done < lines.size()) {
    const auto next = static_cast<int64_t>(lines[done].size()) + 1;
    if (regular_ && begun_ == 0 && size_ > 0 && size_ + next > max_bytes_) {
      if (const absl::Status aside = SetAside(); !aside.ok()) {
        error_ = std::string(aside.message());
        return done;
      }
    }
    std::string text;
    std::vector<size_t> ends;
    for (size_t i = done; i < lines.size() && text.size() < kLargestWrite; ++i) {
      const size_t end = text.size() + lines[i].size() + 1;
      if (regular_ && i > done && size_ + static_cast<int64_t>(end - begun_) > max_bytes_) {
        break;
      }
      absl::StrAppend(&text, lines[i], "\n");
      ends.push_back(end);
    }
    const size_t written = begun_ + WriteOut(std::string_view(text).substr(begun_));
    const bool all = written == text.size();
    const auto whole =
        static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), written) - ends.begin());
    begun_ = written - (whole == 0 ? 0 : ends[whole - 1]);
    done += whole;
    if (!all) {
      return done;
    }
  }
  error_.clear();
  return done;
}

}  // namespace patchflow

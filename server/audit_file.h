// The file that the audit log is written into, and older ones beside it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace patchflow {

// Appends lines to a file. Before it grows beyond `max_bytes` it is set aside: "audit.jsonl"
// becomes "audit.1.jsonl", that one "audit.2.jsonl", and so on to `max_files`, the last of which is
// removed. A FIFO or a device may take its place; those are never set aside, nor synced. For one
// thread at a time.
class AuditFile {
 public:
  // Opens or makes it. A line that an earlier process left unfinished is ended. UNAVAILABLE with
  // the system's word for it.
  static absl::StatusOr<std::unique_ptr<AuditFile>> Open(const AuditConfig& config);
  ~AuditFile();
  AuditFile(const AuditFile&) = delete;
  AuditFile& operator=(const AuditFile&) = delete;

  // How many of the lines are in the file, with `sync` on the disk, from the first; fewer than all
  // after an error, which error() tells. The next call must begin with the first that is not: it
  // may be there in part, and is then continued. Waits for as long as the system does.
  size_t Append(const std::vector<std::string>& lines);
  const std::string& error() const { return error_; }

 private:
  explicit AuditFile(const AuditConfig& config);
  absl::Status OpenFile();
  absl::Status SetAside();
  // How many bytes of `text` are in the file.
  size_t WriteOut(std::string_view text);
  std::string NameOf(int number) const;

  const std::string path_;
  const int64_t max_bytes_;
  const int max_files_;
  const bool sync_;
  int file_ = -1;
  bool regular_ = false;
  int64_t size_ = 0;
  size_t begun_ = 0;  // Bytes of the next line that are in the file.
  std::string error_;
};

}  // namespace patchflow

#include "server/sqlite.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

absl::Status ErrorOf(sqlite3* database) {
  return absl::UnavailableError(absl::StrCat("SQLite: ", sqlite3_errmsg(database)));
}

constexpr mode_t kOwnerOnly = 0600;

// By name: whoever closes any descriptor of a database loses SQLite's locks of it.
absl::Status KeepFromOthers(const std::string& file) {
  struct stat found {};
  if (stat(file.c_str(), &found) != 0) {
    return errno == ENOENT ? absl::OkStatus() : absl::UnavailableError(std::strerror(errno));
  }
  if ((found.st_mode & (S_IRWXG | S_IRWXO)) == 0 || chmod(file.c_str(), kOwnerOnly) == 0) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(
      absl::StrCat("others may read it, and that can't be changed: ", std::strerror(errno)));
}

// So that it, and what SQLite makes beside it with the mode that it has, is for this user alone.
absl::Status KeepDatabaseFromOthers(const std::string& file) {
  if (const int made = open(file.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, kOwnerOnly);
      made >= 0) {
    close(made);
  }
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
    if (absl::Status status = KeepFromOthers(file + suffix); !status.ok()) {
      return absl::UnavailableError(absl::StrCat(file, suffix, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

SqlStatement::SqlStatement(sqlite3* database, const char* sql) : database_(database) {
  sqlite3_stmt* statement = nullptr;
  Check(sqlite3_prepare_v2(database, sql, -1, &statement, nullptr));
  statement_.reset(statement);
}

void SqlStatement::Check(int code) {
  if (code != SQLITE_OK && status_.ok()) {
    status_ = ErrorOf(database_);
  }
}

SqlStatement& SqlStatement::Bind(const std::string& text) {
  Check(
      sqlite3_bind_blob64(statement_.get(), ++bound_, text.data(), text.size(), SQLITE_TRANSIENT));
  return *this;
}

SqlStatement& SqlStatement::Bind(int64_t number) {
  Check(sqlite3_bind_int64(statement_.get(), ++bound_, number));
  return *this;
}

bool SqlStatement::Step() {
  if (!status_.ok()) {
    return false;
  }
  const int code = sqlite3_step(statement_.get());
  if (code != SQLITE_ROW && code != SQLITE_DONE) {
    status_ = ErrorOf(database_);
  }
  return code == SQLITE_ROW;
}

std::string SqlStatement::Bytes(int column) const {
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return bytes == nullptr ? std::string()
                          : std::string(static_cast<const char*>(bytes), static_cast<size_t>(size));
}

int64_t SqlStatement::Number(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

bool SqlStatement::IsNull(int column) const {
  return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

absl::Status SqlStatement::Run() {
  while (Step()) {
  }
  return status_;
}

absl::Status RunSql(sqlite3* database, const char* sql) {
  return sqlite3_exec(database, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus()
                                                                             : ErrorOf(database);
}

absl::StatusOr<SqlDatabase> OpenSql(const std::string& file) {
  if (absl::Status kept = KeepDatabaseFromOthers(file); !kept.ok()) {
    return kept;
  }
  sqlite3* opened = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  const int code = sqlite3_open_v2(file.c_str(), &opened, flags, nullptr);
  SqlDatabase database(opened);
  absl::Status status = code == SQLITE_OK ? absl::OkStatus() : ErrorOf(opened);
  if (status.ok()) {
    status = RunSql(opened,
                    "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;"
                    "PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864;"
                    "PRAGMA busy_timeout = 5000");
  }
  if (!status.ok()) {
    return absl::UnavailableError(absl::StrCat(file, ": ", status.message()));
  }
  return database;
}

}  // namespace patchflow

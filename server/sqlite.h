// SQLite, as little of it as the store needs.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace patchflow {

// One prepared statement. Errors are kept: the first one is what Run() returns and status() tells.
class SqlStatement {
 public:
  SqlStatement(sqlite3* database, const char* sql);

  SqlStatement& Bind(const std::string& text);  // As bytes, which text columns hold as well.
  SqlStatement& Bind(int64_t number);
  // To the next row; false at the end, and after an error.
  bool Step();
  std::string Bytes(int column) const;
  int64_t Number(int column) const;
  bool IsNull(int column) const;
  // Steps to the end.
  absl::Status Run();
  const absl::Status& status() const { return status_; }

 private:
  struct Finalizer {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  void Check(int code);

  sqlite3* const database_;
  std::unique_ptr<sqlite3_stmt, Finalizer> statement_;
  int bound_ = 0;
  absl::Status status_;
};

struct SqlCloser {
  void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
};
using SqlDatabase = std::unique_ptr<sqlite3, SqlCloser>;

// Opens or makes the file, in write-ahead mode: what was committed is on the disk. It and those
// that SQLite keeps beside it are for this user alone (mode 0600), whatever they were. UNAVAILABLE
// naming the file.
absl::StatusOr<SqlDatabase> OpenSql(const std::string& file);

// Runs statements that return nothing.
absl::Status RunSql(sqlite3* database, const char* sql);

}  // namespace patchflow

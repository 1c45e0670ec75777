#include "server/store_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/log.h"
#include "server/sha256.h"
#include "server/stored_spec.h"

namespace patchflow {
namespace {

constexpr int64_t kSchema = 2;  // 1: images(number, place, header, data), the bytes in `data`.
constexpr int64_t kForever = -1;
constexpr char kGenerations[] =
    "CREATE TABLE IF NOT EXISTS generations(number INTEGER PRIMARY KEY AUTOINCREMENT,"
    " owner BLOB NOT NULL, request_id BLOB NOT NULL, spec BLOB NOT NULL,"
    " created INTEGER NOT NULL, timeout INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " ended INTEGER, status BLOB, completed BLOB, attempt INTEGER NOT NULL DEFAULT 1,"
    " UNIQUE(owner, request_id))";
constexpr char kImages[] =
    "CREATE TABLE IF NOT EXISTS images(number INTEGER NOT NULL, place INTEGER NOT NULL,"
    " header BLOB NOT NULL, PRIMARY KEY(number, place))";
constexpr char kColumns[] =
    "SELECT number, spec, created, timeout, ended, status, completed, attempt FROM "
    "generations ";

int64_t MicrosOf(absl::Duration timeout) {
  return timeout < absl::InfiniteDuration() ? absl::ToInt64Microseconds(timeout) : kForever;
}

// Numbers are never given twice, so neither are names.
std::string NameOf(int64_t number, int64_t place) { return absl::StrCat(number, "-", place); }

}  // namespace

StoreTable::StoreTable(const std::string& directory, SqlDatabase database)
    : images_(directory + "/images"), database_(std::move(database)) {}

absl::StatusOr<std::unique_ptr<StoreTable>> StoreTable::Open(const std::string& directory) {
  auto database = OpenSql(directory + "/generations.sqlite");
  if (!database.ok()) {
    return database.status();
  }
  std::unique_ptr<StoreTable> table(new StoreTable(directory, *std::move(database)));
  if (absl::Status status = table->Prepare(); !status.ok()) {
    return status;
  }
  return table;
}

absl::Status StoreTable::Prepare() {
  int64_t schema = 0;
  {
    SqlStatement version(database_.get(), "PRAGMA user_version");
    schema = version.Step() ? version.Number(0) : 0;
  }
  if (schema > kSchema) {
    return absl::UnavailableError(absl::StrCat("it was written by a later version (schema ", schema,
                                               ", this one knows ", kSchema, ")"));
  }
  absl::Status status = images_.Prepare();
  if (status.ok() && schema == 1) {
    status = MoveImagesToFiles();
  }
  for (const char* sql : {kGenerations, kImages, "PRAGMA user_version = 2"}) {
    if (status.ok()) {
      status = RunSql(database_.get(), sql);
    }
  }
  if (status.ok()) {
    status = AddAttempts();
  }
  return status.ok() ? Load() : status;
}

// Of schema 2 as it was first: those that know no attempts do as well with them.
absl::Status StoreTable::AddAttempts() {
  SqlStatement known(
      database_.get(),
      "SELECT COUNT(*) FROM pragma_table_info('generations') WHERE name = 'attempt'");
  if (!known.Step() || known.Number(0) > 0) {
    return known.status();
  }
  return RunSql(database_.get(),
                "ALTER TABLE generations ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1");
}

// Schema 1 to 2. Whenever it is cut off, it begins anew.
absl::Status StoreTable::MoveImagesToFiles() {
  absl::Status status =
      RunSql(database_.get(), "BEGIN IMMEDIATE; ALTER TABLE images RENAME TO old");
  int64_t moved = 0;
  if (status.ok()) {
    status = RunSql(database_.get(), kImages);
  }
  if (status.ok()) {
    SqlStatement old(database_.get(), "SELECT number, place, data FROM old");
    while (status.ok() && old.Step()) {
      status = images_.Write(NameOf(old.Number(0), old.Number(1)), old.Bytes(2));
      ++moved;
    }
    if (status.ok()) {
      status = old.status();
    }
  }
  if (status.ok()) {
    status = RunSql(database_.get(),
                    "INSERT INTO images SELECT number, place, header FROM old; DROP TABLE old;"
                    "PRAGMA user_version = 2; COMMIT");
  }
  if (!status.ok()) {
    (void)RunSql(database_.get(), "ROLLBACK");
    return status;
  }
  LogInfo("the store's images are files now", {{"images", moved}});
  return RunSql(database_.get(), "PRAGMA incremental_vacuum");
}

absl::Status StoreTable::Load() {
  SqlStatement rows(database_.get(), "SELECT owner, request_id, bytes FROM generations");
  while (rows.Step()) {
    keys_.insert({rows.Bytes(0), rows.Bytes(1)});
    ++generations_;
    bytes_ += rows.Number(2);
  }
  if (!rows.status().ok()) {
    return rows.status();
  }
  std::set<std::string> names;
  SqlStatement files(database_.get(), "SELECT number, place FROM images");
  while (files.Step()) {
    names.insert(NameOf(files.Number(0), files.Number(1)));
  }
  if (!files.status().ok()) {
    return files.status();
  }
  const int orphans =
      images_.RemoveOthers([&](const std::string& name) { return names.count(name) != 0; });
  if (orphans > 0) {
    LogInfo("files that nothing names were removed from the store", {{"files", orphans}});
  }
  return absl::OkStatus();
}

absl::Status StoreTable::Change(const std::function<absl::Status()>& change) {
  generations_before_ = generations_;
  bytes_before_ = bytes_;
  absl::Status status = RunSql(database_.get(), "BEGIN IMMEDIATE");
  if (status.ok()) {
    status = change();
    if (status.ok()) {
      status = RunSql(database_.get(), "COMMIT");
    }
    if (!status.ok()) {
      (void)RunSql(database_.get(), "ROLLBACK");
    }
  }
  if (!status.ok()) {
    generations_ = generations_before_;
    bytes_ = bytes_before_;
  } else {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [key, there] : changed_) {
      if (there) {
        keys_.insert(key);
      } else {
        keys_.erase(key);
      }
    }
  }
  for (const std::string& name : status.ok() ? dropped_ : written_) {
    images_.Remove(name);
  }
  written_.clear();
  dropped_.clear();
  changed_.clear();
  return status;
}

absl::StatusOr<bool> StoreTable::Insert(const Generation& generation, absl::Duration timeout) {
  const GenerationSpec& spec = generation.spec();
  SqlStatement found(database_.get(),
                     "SELECT ended FROM generations WHERE owner = ? AND request_id = ?");
  if (found.Bind(spec.owner.name).Bind(spec.request_id).Step()) {
    if (found.IsNull(0)) {
      const int64_t micros = MicrosOf(timeout);
      const absl::Status status =
          SqlStatement(database_.get(),
                       "UPDATE generations SET timeout = ? WHERE owner = ? AND request_id = ? AND "
                       "timeout != -1 AND (? = -1 OR timeout < ?)")
              .Bind(micros)
              .Bind(spec.owner.name)
              .Bind(spec.request_id)
              .Bind(micros)
              .Bind(micros)
              .Run();
      return status.ok() ? absl::StatusOr<bool>(false) : status;
    }
    if (absl::Status status = Remove(spec.key()); !status.ok()) {
      return status;
    }
  }
  const std::string bytes = SerializeSpec(spec);
  SqlStatement insert(database_.get(),
                      "INSERT INTO generations(owner, request_id, spec, created, timeout, bytes) "
                      "VALUES(?, ?, ?, ?, ?, ?)");
  absl::Status status = insert.Bind(spec.owner.name)
                            .Bind(spec.request_id)
                            .Bind(bytes)
                            .Bind(absl::ToUnixMicros(generation.create_time()))
                            .Bind(MicrosOf(timeout))
                            .Bind(static_cast<int64_t>(bytes.size()))
                            .Run();
  if (!status.ok()) {
    return status;
  }
  ++generations_;
  bytes_ += static_cast<int64_t>(bytes.size());
  changed_.emplace_back(spec.key(), true);
  return true;
}

absl::Status StoreTable::SetAttempt(const Generation& generation, int attempt) {
  return SqlStatement(database_.get(),
                      "UPDATE generations SET attempt = ? WHERE owner = ? AND request_id = ? AND "
                      "attempt != ?")
      .Bind(int64_t{attempt})
      .Bind(generation.spec().owner.name)
      .Bind(generation.spec().request_id)
      .Bind(int64_t{attempt})
      .Run();
}

absl::Status StoreTable::AddImages(const Generation& generation) {
  const GenerationKey key = generation.spec().key();
  SqlStatement found(database_.get(),
                     "SELECT number FROM generations WHERE owner = ? AND request_id = ?");
  if (!found.Bind(key.owner).Bind(key.request_id).Step()) {
    return found.status();
  }
  for (int place = 0; place < generation.spec().params().count(); ++place) {
    if (const auto image = generation.image(place); image != nullptr) {
      if (absl::Status status = AddImage(found.Number(0), place, *image); !status.ok()) {
        return status;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status StoreTable::AddImage(int64_t number, int place, const EncodedImage& image) {
  SqlStatement insert(database_.get(),
                      "INSERT OR IGNORE INTO images(number, place, header) VALUES(?, ?, ?)");
  absl::Status status =
      insert.Bind(number).Bind(int64_t{place}).Bind(image.header.SerializeAsString()).Run();
  if (!status.ok() || sqlite3_changes(database_.get()) == 0) {
    return status;
  }
  const std::string name = NameOf(number, place);
  written_.push_back(name);
  status = images_.Write(name, image.data);
  if (!status.ok()) {
    return status;
  }
  const auto bytes = static_cast<int64_t>(image.data.size());
  bytes_ += bytes;
  return SqlStatement(database_.get(), "UPDATE generations SET bytes = bytes + ? WHERE number = ?")
      .Bind(bytes)
      .Bind(number)
      .Run();
}

absl::Status StoreTable::End(const Generation& generation, const absl::Status& end) {
  SqlStatement update(database_.get(),
                      "UPDATE generations SET ended = ?, status = ?, completed = ? WHERE owner = ? "
                      "AND request_id = ?");
  return update.Bind(absl::ToUnixMicros(generation.end_time()))
      .Bind(SerializeStatus(end))
      .Bind(generation.completed().SerializeAsString())
      .Bind(generation.spec().owner.name)
      .Bind(generation.spec().request_id)
      .Run();
}

absl::Status StoreTable::Evict(int64_t max_bytes, absl::Time oldest) {
  while (true) {
    SqlStatement next(database_.get(),
                      "SELECT owner, request_id, ended FROM generations WHERE ended IS NOT NULL "
                      "ORDER BY ended LIMIT 1");
    if (!next.Step() || (bytes_ <= max_bytes && next.Number(2) > absl::ToUnixMicros(oldest))) {
      return next.status();
    }
    if (absl::Status status = Remove({next.Bytes(0), next.Bytes(1)}); !status.ok()) {
      return status;
    }
  }
}

absl::Status StoreTable::Remove(const GenerationKey& key) {
  SqlStatement found(database_.get(),
                     "SELECT number, bytes FROM generations WHERE owner = ? AND request_id = ?");
  if (!found.Bind(key.owner).Bind(key.request_id).Step()) {
    return found.status();
  }
  const int64_t number = found.Number(0);
  std::vector<std::string> files;
  SqlStatement places(database_.get(), "SELECT place FROM images WHERE number = ?");
  places.Bind(number);
  while (places.Step()) {
    files.push_back(NameOf(number, places.Number(0)));
  }
  absl::Status status = places.status();
  for (const char* sql :
       {"DELETE FROM images WHERE number = ?", "DELETE FROM generations WHERE number = ?"}) {
    if (status.ok()) {
      status = SqlStatement(database_.get(), sql).Bind(number).Run();
    }
  }
  if (status.ok()) {
    --generations_;
    bytes_ -= found.Number(1);
    changed_.emplace_back(key, false);
    dropped_.insert(dropped_.end(), files.begin(), files.end());
  }
  return status;
}

absl::StatusOr<StoredGeneration> StoreTable::Read(SqlStatement& row, std::vector<BadImage>& bad) {
  StoredGeneration stored;
  auto spec = ParseSpec(row.Bytes(1));
  if (!spec.ok()) {
    return spec.status();
  }
  stored.spec = *std::move(spec);
  stored.create_time = absl::FromUnixMicros(row.Number(2));
  stored.attempt = static_cast<int>(row.Number(7));
  if (row.Number(3) != kForever) {
    stored.timeout = absl::Microseconds(row.Number(3));
  }
  if (!row.IsNull(4)) {
    stored.end_time = absl::FromUnixMicros(row.Number(4));
    stored.end.emplace();
    if (!ParseStatus(row.Bytes(5), *stored.end) ||
        !stored.completed.ParseFromString(row.Bytes(6))) {
      return absl::DataLossError("a stored end cannot be read");
    }
  }
  stored.images.resize(static_cast<size_t>(stored.spec.params().count()));
  SqlStatement images(database_.get(), "SELECT place, header FROM images WHERE number = ?");
  images.Bind(row.Number(0));
  while (images.Step()) {
    auto image = std::make_shared<EncodedImage>();
    const auto place = static_cast<size_t>(images.Number(0));
    if (place >= stored.images.size() || !image->header.ParseFromString(images.Bytes(1))) {
      continue;
    }
    auto data = images_.Read(NameOf(row.Number(0), images.Number(0)),
                             static_cast<size_t>(image->header.total_bytes()));
    if (data.has_value() && Sha256(*data) == image->header.sha256()) {
      image->data = *std::move(data);
      stored.images[place] = std::move(image);
    } else {
      bad.push_back(
          {row.Number(0), images.Number(0), static_cast<int64_t>(image->header.total_bytes())});
    }
  }
  return images.status().ok() ? absl::StatusOr<StoredGeneration>(std::move(stored))
                              : images.status();
}

absl::StatusOr<std::vector<StoredGeneration>> StoreTable::Unfinished() {
  std::vector<StoredGeneration> unfinished;
  std::vector<BadImage> bad;
  {
    SqlStatement rows(database_.get(),
                      absl::StrCat(kColumns, "WHERE ended IS NULL ORDER BY number").c_str());
    while (rows.Step()) {
      auto stored = Read(rows, bad);
      if (!stored.ok()) {
        return stored.status();
      }
      unfinished.push_back(*std::move(stored));
    }
    if (!rows.status().ok()) {
      return rows.status();
    }
  }
  const absl::Status forgotten = Change([&] {
    absl::Status status;
    for (const BadImage& image : bad) {
      bytes_ -= image.bytes;
      status.Update(
          SqlStatement(database_.get(), "DELETE FROM images WHERE number = ? AND place = ?")
              .Bind(image.number)
              .Bind(image.place)
              .Run());
      status.Update(
          SqlStatement(database_.get(), "UPDATE generations SET bytes = bytes - ? WHERE number = ?")
              .Bind(image.bytes)
              .Bind(image.number)
              .Run());
    }
    return status;
  });
  if (!forgotten.ok()) {
    return forgotten;
  }
  return unfinished;
}

absl::StatusOr<StoredGeneration> StoreTable::FindEnded(const GenerationKey& key) {
  SqlStatement row(
      database_.get(),
      absl::StrCat(kColumns, "WHERE owner = ? AND request_id = ? AND ended IS NOT NULL").c_str());
  if (!row.Bind(key.owner).Bind(key.request_id).Step()) {
    return row.status().ok() ? absl::NotFoundError("no such generation has ended") : row.status();
  }
  std::vector<BadImage> bad;
  auto stored = Read(row, bad);
  if (stored.ok() && !bad.empty()) {
    return absl::DataLossError(
        absl::StrCat("image ", bad.front().place, " is not what was stored"));
  }
  return stored;
}

bool StoreTable::Has(const GenerationKey& key) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return keys_.count(key) != 0;
}

}  // namespace patchflow

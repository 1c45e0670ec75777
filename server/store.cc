#include "server/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/errors.h"
#include "server/log.h"
#include "server/stored_spec.h"

namespace patchflow {
namespace {

constexpr int64_t kSchema = 1;
constexpr int64_t kForever = -1;
constexpr char kTables[] =
    "CREATE TABLE IF NOT EXISTS generations(number INTEGER PRIMARY KEY AUTOINCREMENT,"
    " owner BLOB NOT NULL, request_id BLOB NOT NULL, spec BLOB NOT NULL,"
    " created INTEGER NOT NULL, timeout INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " ended INTEGER, status BLOB, completed BLOB, UNIQUE(owner, request_id));"
    "CREATE TABLE IF NOT EXISTS images(number INTEGER NOT NULL, place INTEGER NOT NULL,"
    " header BLOB NOT NULL, data BLOB NOT NULL, PRIMARY KEY(number, place));"
    "PRAGMA user_version = 1";
constexpr char kColumns[] =
    "SELECT number, spec, created, timeout, ended, status, completed FROM generations ";

// Whoever has the store next makes what this process could not because it ended.
bool GoesOn(const absl::Status& end) { return ReasonOf(end) == reason::kDraining; }

}  // namespace

// Listens to one generation for the store.
class Store::Follower final : public Generation::Subscriber {
 public:
  Follower(Store& store, const std::shared_ptr<Generation>& generation)
      : store_(store), generation_(generation) {}

  void OnChange() override {
    auto generation = generation_.lock();
    if (generation == nullptr) {
      return;
    }
    const Standing standing = generation->standing();
    if (images_done_.exchange(standing.images_done) != standing.images_done || standing.ended()) {
      store_.Enqueue(generation);
    }
  }

 private:
  Store& store_;
  const std::weak_ptr<Generation> generation_;
  std::atomic<int> images_done_ = 0;
};

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const StoreConfig& config) {
  std::error_code error;
  std::filesystem::create_directories(config.directory, error);
  const std::string lock_file = config.directory + "/lock";
  const int lock = open(lock_file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (lock < 0) {
    return absl::UnavailableError(
        absl::StrCat("store.directory: ", config.directory, " cannot be used"));
  }
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    close(lock);
    return absl::UnavailableError(
        absl::StrCat("store.directory: ", config.directory, " is held by another server"));
  }
  auto database = OpenSql(config.directory + "/generations.sqlite");
  if (!database.ok()) {
    close(lock);
    return absl::UnavailableError(absl::StrCat("store.directory: ", database.status().message()));
  }
  std::unique_ptr<Store> store(new Store(config, lock, *std::move(database)));
  if (absl::Status status = store->Prepare(); !status.ok()) {
    return absl::UnavailableError(absl::StrCat("store.directory: ", status.message()));
  }
  return store;
}

Store::Store(const StoreConfig& config, int lock, SqlDatabase database)
    : config_(config), lock_(lock), database_(std::move(database)), thread_([this] { Run(); }) {}

Store::~Store() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  close(lock_);
}

absl::Status Store::Prepare() {
  std::lock_guard<std::mutex> lock(database_mutex_);
  SqlStatement version(database_.get(), "PRAGMA user_version");
  if (version.Step() && version.Number(0) > kSchema) {
    return absl::UnavailableError(absl::StrCat("it was written by a later version (schema ",
                                               version.Number(0), ", this one knows ", kSchema,
                                               ")"));
  }
  if (absl::Status status = RunSql(database_.get(), kTables); !status.ok()) {
    return status;
  }
  SqlStatement sums(database_.get(), "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM generations");
  if (sums.Step()) {
    generations_ = sums.Number(0);
    bytes_ = sums.Number(1);
  }
  return Evict();
}

absl::Status Store::Accept(const std::shared_ptr<Generation>& generation, absl::Duration timeout) {
  const GenerationSpec& spec = generation->spec();
  const std::string bytes = SerializeSpec(spec);
  std::lock_guard<std::mutex> lock(database_mutex_);
  SqlStatement ended(database_.get(),
                     "SELECT 1 FROM generations WHERE owner = ? AND request_id = ? AND ended IS "
                     "NOT NULL");
  absl::Status status;
  if (ended.Bind(spec.owner.name).Bind(spec.request_id).Step()) {
    status = Delete(spec.key());
  }
  if (status.ok()) {
    SqlStatement insert(database_.get(),
                        "INSERT OR IGNORE INTO generations(owner, request_id, spec, created, "
                        "timeout, bytes) VALUES(?, ?, ?, ?, ?, ?)");
    const bool bounded = timeout < absl::InfiniteDuration();
    status = insert.Bind(spec.owner.name)
                 .Bind(spec.request_id)
                 .Bind(bytes)
                 .Bind(absl::ToUnixMicros(generation->create_time()))
                 .Bind(bounded ? absl::ToInt64Microseconds(timeout) : kForever)
                 .Bind(static_cast<int64_t>(bytes.size()))
                 .Run();
    if (status.ok() && sqlite3_changes(database_.get()) == 1) {
      ++generations_;
      bytes_ += static_cast<int64_t>(bytes.size());
    }
  }
  Note(status, spec.request_id);
  return status;
}

void Store::Drop(const GenerationKey& key) {
  std::lock_guard<std::mutex> lock(database_mutex_);
  Note(Delete(key), key.request_id);
}

void Store::Follow(const std::shared_ptr<Generation>& generation) {
  auto follower = std::make_shared<Follower>(*this, generation);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!followers_.emplace(generation.get(), follower).second) {
      return;
    }
  }
  generation->Subscribe(follower, true);
  Enqueue(generation);
}

void Store::Enqueue(const std::shared_ptr<Generation>& generation) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (std::find(waiting_.begin(), waiting_.end(), generation) == waiting_.end()) {
      waiting_.push_back(generation);
    }
  }
  changed_.notify_all();
}

void Store::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) {
      return;
    }
    auto generation = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    {
      std::lock_guard<std::mutex> database_lock(database_mutex_);
      Note(Write(*generation), generation->spec().request_id);
    }
    const bool ended = generation->ended();
    lock.lock();
    const bool again = std::find(waiting_.begin(), waiting_.end(), generation) != waiting_.end();
    if (ended && !again) {
      followers_.erase(generation.get());
    }
  }
}

absl::Status Store::Write(const Generation& generation) {
  const Standing standing = generation.standing();
  const int64_t bytes_before = bytes_;
  absl::Status status = RunSql(database_.get(), "BEGIN IMMEDIATE");
  if (status.ok()) {
    status = WriteImages(generation);
  }
  if (status.ok() && standing.ended() && !GoesOn(standing.status)) {
    status = WriteEnd(generation, standing.status);
  }
  const absl::Status finished = RunSql(database_.get(), status.ok() ? "COMMIT" : "ROLLBACK");
  if (!status.ok() || !finished.ok()) {
    bytes_ = bytes_before;
    return status.ok() ? finished : status;
  }
  return standing.ended() ? Evict() : absl::OkStatus();
}

absl::Status Store::WriteImages(const Generation& generation) {
  const GenerationKey key = generation.spec().key();
  for (int i = 0; i < generation.spec().params().count(); ++i) {
    const auto image = generation.image(i);
    if (image == nullptr) {
      continue;
    }
    SqlStatement insert(database_.get(),
                        "INSERT OR IGNORE INTO images(number, place, header, data) SELECT number, "
                        "?, ?, ? FROM generations WHERE owner = ? AND request_id = ?");
    absl::Status status = insert.Bind(i)
                              .Bind(image->header.SerializeAsString())
                              .Bind(image->data)
                              .Bind(key.owner)
                              .Bind(key.request_id)
                              .Run();
    if (status.ok() && sqlite3_changes(database_.get()) == 1) {
      const auto bytes = static_cast<int64_t>(image->data.size());
      SqlStatement add(database_.get(),
                       "UPDATE generations SET bytes = bytes + ? WHERE owner = ? AND request_id = "
                       "?");
      status = add.Bind(bytes).Bind(key.owner).Bind(key.request_id).Run();
      bytes_ += bytes;
    }
    if (!status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Store::WriteEnd(const Generation& generation, const absl::Status& end) {
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

absl::Status Store::Evict() {
  const int64_t oldest = absl::ToUnixMicros(absl::Now() - config_.max_age);
  while (true) {
    SqlStatement next(database_.get(),
                      "SELECT owner, request_id, ended FROM generations WHERE ended IS NOT NULL "
                      "ORDER BY ended LIMIT 1");
    if (!next.Step() || (bytes_ <= config_.max_bytes && next.Number(2) > oldest)) {
      return next.status();
    }
    if (absl::Status status = Delete({next.Bytes(0), next.Bytes(1)}); !status.ok()) {
      return status;
    }
  }
}

absl::Status Store::Delete(const GenerationKey& key) {
  SqlStatement found(database_.get(),
                     "SELECT number, bytes FROM generations WHERE owner = ? AND request_id = ?");
  if (!found.Bind(key.owner).Bind(key.request_id).Step()) {
    return found.status();
  }
  const int64_t number = found.Number(0);
  const int64_t bytes = found.Number(1);
  for (const char* sql :
       {"DELETE FROM images WHERE number = ?", "DELETE FROM generations WHERE number = ?"}) {
    if (absl::Status status = SqlStatement(database_.get(), sql).Bind(number).Run(); !status.ok()) {
      return status;
    }
  }
  --generations_;
  bytes_ -= bytes;
  return absl::OkStatus();
}

absl::StatusOr<StoredGeneration> Store::Read(SqlStatement& row) {
  StoredGeneration stored;
  auto spec = ParseSpec(row.Bytes(1));
  if (!spec.ok()) {
    return spec.status();
  }
  stored.spec = *std::move(spec);
  stored.create_time = absl::FromUnixMicros(row.Number(2));
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
  SqlStatement images(database_.get(), "SELECT place, header, data FROM images WHERE number = ?");
  images.Bind(row.Number(0));
  while (images.Step()) {
    auto image = std::make_shared<EncodedImage>();
    image->data = images.Bytes(2);
    const auto place = static_cast<size_t>(images.Number(0));
    if (place < stored.images.size() && image->header.ParseFromString(images.Bytes(1))) {
      stored.images[place] = std::move(image);
    }
  }
  return stored;
}

absl::StatusOr<std::vector<StoredGeneration>> Store::Unfinished() {
  std::lock_guard<std::mutex> lock(database_mutex_);
  std::vector<StoredGeneration> unfinished;
  SqlStatement rows(database_.get(),
                    absl::StrCat(kColumns, "WHERE ended IS NULL ORDER BY number").c_str());
  while (rows.Step()) {
    auto stored = Read(rows);
    if (!stored.ok()) {
      return stored.status();
    }
    unfinished.push_back(*std::move(stored));
  }
  if (!rows.status().ok()) {
    return rows.status();
  }
  return unfinished;
}

std::optional<StoredGeneration> Store::FindEnded(const GenerationKey& key) {
  std::lock_guard<std::mutex> lock(database_mutex_);
  SqlStatement row(
      database_.get(),
      absl::StrCat(kColumns, "WHERE owner = ? AND request_id = ? AND ended IS NOT NULL").c_str());
  if (!row.Bind(key.owner).Bind(key.request_id).Step()) {
    Note(row.status(), key.request_id);
    return std::nullopt;
  }
  auto stored = Read(row);
  Note(stored.status(), key.request_id);
  if (!stored.ok() || absl::Now() - stored->end_time >= config_.max_age) {
    return std::nullopt;
  }
  return *std::move(stored);
}

void Store::Note(const absl::Status& status, const std::string& request_id) {
  if (!status.ok()) {
    ++failures_;
    LogError("the store failed",
             {{"request_id", request_id}, {"why", std::string(status.message())}});
  }
}

Store::Figures Store::figures() const {
  std::lock_guard<std::mutex> lock(database_mutex_);
  return {generations_, bytes_, failures_};
}

}  // namespace patchflow

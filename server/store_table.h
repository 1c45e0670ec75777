// What the store holds: rows in SQLite, images in files.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/generation.h"
#include "server/image_folder.h"
#include "server/sqlite.h"

namespace patchflow {

// One generation as it is stored.
struct StoredGeneration {
  GenerationSpec spec;
  absl::Duration timeout = absl::InfiniteDuration();  // From create_time.
  absl::Time create_time;
  int attempt = 1;                                          // The last.
  std::vector<std::shared_ptr<const EncodedImage>> images;  // Null where it is missing.
  // Once it has ended:
  std::optional<absl::Status> end;
  absl::Time end_time;
  v1::Completed completed;
};

// `generations.sqlite` and the folder `images` in a directory. An image's file is on the disk
// before the row that tells of it, and goes after it, so that at any moment at which the process
// may end there is at worst a file without a row; such files are removed when it is opened. For one
// thread at a time, but for Has(), generations() and bytes().
class StoreTable {
 public:
  // Brings what an earlier version wrote, with images in the database, to its present form.
  // UNAVAILABLE if it cannot be used, or was written by a later one.
  static absl::StatusOr<std::unique_ptr<StoreTable>> Open(const std::string& directory);

  // What `change` does by the methods below is on the disk when this returns, or undone: OK or the
  // first error.
  absl::Status Change(const std::function<absl::Status()>& change);

  // Within Change():
  // True if it is new; one of the same key that has ended is replaced, and one that has not may
  // from now on take as long as `timeout` if that is longer.
  absl::StatusOr<bool> Insert(const Generation& generation, absl::Duration timeout);
  // Its attempt, from the second on.
  absl::Status SetAttempt(const Generation& generation, int attempt);
  // The images that are made and not stored.
  absl::Status AddImages(const Generation& generation);
  absl::Status End(const Generation& generation, const absl::Status& end);
  absl::Status Remove(const GenerationKey& key);
  // Removes what ended before `oldest`, and the oldest while all is larger than `max_bytes`.
  absl::Status Evict(int64_t max_bytes, absl::Time oldest);

  // In the order of their acceptance. An image whose file is not what was written is missing, and
  // forgotten, so that it can be stored anew.
  absl::StatusOr<std::vector<StoredGeneration>> Unfinished();
  // NOT_FOUND if it is not there or has not ended; DATA_LOSS if an image is not what was written.
  absl::StatusOr<StoredGeneration> FindEnded(const GenerationKey& key);

  bool Has(const GenerationKey& key) const;
  int64_t generations() const { return generations_; }
  int64_t bytes() const { return bytes_; }

 private:
  StoreTable(const std::string& directory, SqlDatabase database);
  absl::Status Prepare();
  absl::Status MoveImagesToFiles();
  absl::Status Load();
  absl::Status AddAttempts();
  absl::Status AddImage(int64_t number, int place, const EncodedImage& image);
  struct BadImage {
    int64_t number;
    int64_t place;
    int64_t bytes;
  };
  // `bad`: images that are not what was written, which are then missing.
  absl::StatusOr<StoredGeneration> Read(SqlStatement& row, std::vector<BadImage>& bad);

  const ImageFolder images_;
  const SqlDatabase database_;
  std::atomic<int64_t> generations_ = 0;
  std::atomic<int64_t> bytes_ = 0;

  mutable std::mutex mutex_;
  std::set<GenerationKey> keys_;

  // Of the change under way.
  int64_t generations_before_ = 0;
  int64_t bytes_before_ = 0;
  std::vector<std::string> written_;                     // Files to remove if it is undone,
  std::vector<std::string> dropped_;                     // or when it is done.
  std::vector<std::pair<GenerationKey, bool>> changed_;  // Whether it is there now.
};

}  // namespace patchflow

#include "server/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/image_folder.h"
#include "server/store_desk.h"

namespace patchflow {

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const StoreConfig& config) {
  (void)MakePrivateFolder(config.directory);  // The lock can't be opened otherwise.
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
  auto table = StoreTable::Open(config.directory);
  absl::Status status = table.status();
  if (status.ok()) {
    status = (*table)->Change(
        [&] { return (*table)->Evict(config.max_bytes, absl::Now() - config.max_age); });
  }
  if (!status.ok()) {
    close(lock);
    return absl::UnavailableError(absl::StrCat("store.directory: ", status.message()));
  }
  auto desk = std::make_shared<StoreDesk>(config, lock, *std::move(table));
  desk->Start();
  return std::unique_ptr<Store>(new Store(std::move(desk)));
}

Store::~Store() { desk_->Stop(); }

absl::Status Store::Accept(const std::shared_ptr<Generation>& generation, absl::Duration timeout) {
  const auto answer = std::make_shared<StoreDesk::Answer>();
  const GenerationKey key = generation->spec().key();
  const absl::Status status = desk_->Ask({.change =
                                              [generation, timeout, answer](StoreTable& table) {
                                                auto inserted = table.Insert(*generation, timeout);
                                                answer->inserted = inserted.ok() && *inserted;
                                                return inserted.status();
                                              },
                                          .answer = answer,
                                          .request_id = key.request_id});
  const std::lock_guard<std::mutex> lock(answer->mutex);
  if (!status.ok() && answer->asked && !answer->status.has_value()) {
    // If it is written after all, it goes again: whoever asked has been told that it is not there.
    desk_->Post({.change =
                     [answer, key](StoreTable& table) {
                       const std::lock_guard<std::mutex> given(answer->mutex);
                       return answer->inserted && answer->status.value_or(absl::OkStatus()).ok()
                                  ? table.Remove(key)
                                  : absl::OkStatus();
                     },
                 .request_id = key.request_id});
  }
  return status;
}

void Store::Drop(const GenerationKey& key) {
  desk_->Post({.change = [key](StoreTable& table) { return table.Remove(key); },
               .request_id = key.request_id});
}

void Store::Follow(const std::shared_ptr<Generation>& generation) { desk_->Follow(generation); }

absl::StatusOr<std::vector<StoredGeneration>> Store::Unfinished() {
  const auto answer = std::make_shared<StoreDesk::Answer>();
  std::vector<StoredGeneration> unfinished;
  desk_->Post({.change = nullptr,
               .read =
                   [&unfinished](StoreTable& table) {
                     auto found = table.Unfinished();
                     if (found.ok()) {
                       unfinished = *std::move(found);
                     }
                     return found.status();
                   },
               .answer = answer});
  std::unique_lock<std::mutex> lock(answer->mutex);
  answer->came.wait(lock, [&] { return answer->status.has_value(); });
  if (!answer->status->ok()) {
    return *answer->status;
  }
  return unfinished;
}

absl::StatusOr<StoredGeneration> Store::FindEnded(const GenerationKey& key) {
  const absl::Status unknown = absl::NotFoundError("no such generation has ended");
  if (!desk_->table().Has(key)) {
    return unknown;
  }
  const auto answer = std::make_shared<StoreDesk::Answer>();
  const absl::Status status = desk_->Ask({.change = nullptr,
                                          .read =
                                              [key, answer](StoreTable& table) {
                                                auto found = table.FindEnded(key);
                                                if (found.ok()) {
                                                  answer->found = *std::move(found);
                                                }
                                                return found.status();
                                              },
                                          .answer = answer,
                                          .request_id = key.request_id});
  if (!status.ok()) {
    return status;
  }
  if (absl::Now() - answer->found->end_time >= desk_->config().max_age) {
    return unknown;
  }
  return *std::move(answer->found);
}

Store::Figures Store::figures() const {
  return {desk_->table().generations(), desk_->table().bytes(), desk_->failures()};
}

}  // namespace patchflow

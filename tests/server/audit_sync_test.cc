// audit.sync, with a disk that refuses. Stands in for the system's fdatasync() and fsync().
#include <gtest/gtest.h>

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "server/audit.h"
#include "server/audit_file.h"
#include "tests/server/scratch_folder.h"

namespace {

std::atomic<int> file_syncs = 0;
std::atomic<int> folder_syncs = 0;
std::atomic<bool> disk_fails = false;

}  // namespace

extern "C" int fdatasync(int file) {
  ++file_syncs;
  if (disk_fails) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(syscall(SYS_fdatasync, file));
}

extern "C" int fsync(int file) {
  ++folder_syncs;
  return static_cast<int>(syscall(SYS_fsync, file));
}

namespace patchflow {
namespace {

class AuditSyncTest : public ::testing::Test {
 protected:
  AuditSyncTest() {
    config_.file = folder_.path("audit.jsonl");
    config_.sync = true;
    config_.max_delay = absl::Milliseconds(50);
    file_syncs = folder_syncs = 0;
    disk_fails = false;
  }
  std::string Text() const {
    std::ifstream file(config_.file);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static bool Eventually(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return condition();
  }

  ScratchFolder folder_;
  AuditConfig config_;
};

TEST_F(AuditSyncTest, SyncsOnceForLinesThatComeTogether) {
  auto file = *AuditFile::Open(config_);
  EXPECT_EQ(folder_syncs, 1) << "the file's name";
  EXPECT_EQ(file->Append(std::vector<std::string>(1000, "line")), 1000U);
  EXPECT_EQ(file_syncs, 1);
  EXPECT_EQ(Text().size(), 5000U);
}

TEST_F(AuditSyncTest, SyncsAFileBeforeItIsSetAside) {
  config_.max_bytes = 12;
  auto file = *AuditFile::Open(config_);
  EXPECT_EQ(file->Append({"line1", "line2", "line3"}), 3U);
  EXPECT_EQ(file_syncs, 2);
  EXPECT_EQ(folder_syncs, 2);
  EXPECT_EQ(Text(), "line3\n");
}

TEST_F(AuditSyncTest, NeverSyncsUnlessAskedTo) {
  config_.sync = false;
  auto file = *AuditFile::Open(config_);
  EXPECT_EQ(file->Append({"line"}), 1U);
  EXPECT_EQ(file_syncs + folder_syncs, 0);
}

TEST_F(AuditSyncTest, TakesOutWhatTheDiskRefused) {
  auto file = *AuditFile::Open(config_);
  EXPECT_EQ(file->Append({"first"}), 1U);
  disk_fails = true;
  EXPECT_EQ(file->Append({"second", "third"}), 0U);
  EXPECT_EQ(file->error(), "Input/output error");
  EXPECT_EQ(Text(), "first\n");
  disk_fails = false;
  EXPECT_EQ(file->Append({"second", "third"}), 2U);
  EXPECT_EQ(Text(), "first\nsecond\nthird\n");
}

TEST_F(AuditSyncTest, TakesNothingNewWhileTheDiskRefusesAndLosesNothing) {
  auto log = *AuditLog::Open(config_);
  disk_fails = true;
  log->Call({{"method", "GetModel"}});
  EXPECT_TRUE(Eventually([&] { return !log->Ready().ok(); }));
  EXPECT_EQ(log->figures().waiting, 1);
  EXPECT_GT(log->figures().delay, config_.max_delay);
  disk_fails = false;
  EXPECT_TRUE(Eventually([&] { return log->figures().waiting == 0; }));
  EXPECT_EQ(log->figures().delay, absl::ZeroDuration());
  EXPECT_TRUE(log->Ready().ok());
  const std::string text = Text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

}  // namespace
}  // namespace patchflow

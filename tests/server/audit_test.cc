#include "server/audit.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using nlohmann::json;

class AuditTest : public ::testing::Test {
 protected:
  AuditTest() { config_.file = folder_.path("audit.jsonl"); }

  std::unique_ptr<AuditLog> Open() {
    auto log = AuditLog::Open(config_);
    EXPECT_TRUE(log.ok()) << log.status();
    return *std::move(log);
  }
  std::vector<json> Lines() const {
    std::ifstream file(config_.file);
    std::vector<json> lines;
    for (std::string line; std::getline(file, line);) {
      lines.push_back(json::parse(line));
    }
    return lines;
  }

  ScratchFolder folder_;
  AuditConfig config_;
};

TEST_F(AuditTest, WritesACallAsOneLine) {
  Open()->Call({{"method", "GetModel"}, {"identity", "stu\"dio\n"}, {"seconds", 0.5}});
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["event"], "call");
  EXPECT_EQ(lines[0]["identity"], "stu\"dio\n");
  EXPECT_EQ(lines[0]["seconds"], 0.5);
  EXPECT_TRUE(lines[0]["time"].is_string());
}

TEST_F(AuditTest, WritesWhatAGenerationUsedButNotItsPrompt) {
  GenerationSpec spec = TestSpec("a", 2);
  spec.owner.name = "studio";
  spec.ranks = 4;
  auto generation = MakeGeneration(std::move(spec));
  ASSERT_TRUE(generation->Start(0.5));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  AddImage(*generation, 0, 300);
  AddImage(*generation, 1, 200);
  Open()->Ended(*generation);
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1U);
  const json& line = lines[0];
  EXPECT_EQ(line["event"], "generation");
  EXPECT_EQ(line["identity"], "studio");
  EXPECT_EQ(line["code"], "OK");
  EXPECT_EQ(line["state"], "STATE_SUCCEEDED");
  EXPECT_EQ(line["images"], 2);
  EXPECT_EQ(line["image_bytes"], 500);
  EXPECT_GE(line["run_seconds"], 0.02);
  EXPECT_NEAR(line["device_seconds"], 4 * 0.5 * line["run_seconds"].get<double>(), 1e-5)
      << "half of a batch, on four ranks";
  EXPECT_EQ(line["prompt_bytes"], 12);
  EXPECT_EQ(line.dump().find("red circle"), std::string::npos);
}

TEST_F(AuditTest, KeepsABoundedNumberOfFiles) {
  config_.max_bytes = 4096;
  config_.max_files = 2;
  auto log = Open();
  for (int i = 0; i < 500; ++i) {
    log->Call({{"method", "GetModel"}, {"number", i}});
  }
  log.reset();
  size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder_.path())) {
    ++files;
    EXPECT_LE(file.file_size(), 4096U);
  }
  EXPECT_EQ(files, 3U) << "the present one and two older ones";
}

TEST_F(AuditTest, AppendsToWhatIsThere) {
  Open()->Call({{"method", "a"}});
  Open()->Call({{"method", "b"}});
  EXPECT_EQ(Lines().size(), 2U);
}

TEST_F(AuditTest, SaysWhichFileCannotBeOpened) {
  folder_.Write("file", "x");
  config_.file = folder_.path("file/audit.jsonl");
  auto log = AuditLog::Open(config_);
  EXPECT_EQ(log.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(log.status().message().find("audit.file"), std::string::npos);
}

// A FIFO in the file's place: nothing is written while nobody reads.
class AuditFifoTest : public AuditTest {
 protected:
  AuditFifoTest() {
    EXPECT_EQ(mkfifo(config_.file.c_str(), 0600), 0);
    reader_ = open(config_.file.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
    EXPECT_GE(reader_, 0);
    config_.max_delay = absl::Milliseconds(100);
  }
  ~AuditFifoTest() override { close(reader_); }

  // Lines of about 1 kB, many more than a pipe holds.
  static void AddCalls(AuditLog& log, int number) {
    for (int i = 0; i < number; ++i) {
      log.Call({{"number", i}, {"filling", std::string(1000, 'x')}});
    }
  }
  // Reads until nothing has come for a while after `log` has caught up.
  std::vector<json> ReadAll(const AuditLog& log) {
    std::string text;
    std::string part(1 << 16, ' ');
    EXPECT_TRUE(Eventually([&] {
      for (ssize_t got = 0; (got = read(reader_, part.data(), part.size())) > 0;) {
        text.append(part, 0, static_cast<size_t>(got));
      }
      return log.figures().waiting == 0 && (text.empty() || text.back() == '\n');
    }));
    for (ssize_t got = 0; (got = read(reader_, part.data(), part.size())) > 0;) {
      text.append(part, 0, static_cast<size_t>(got));
    }
    std::istringstream stream(text);
    std::vector<json> lines;
    for (std::string line; std::getline(stream, line);) {
      lines.push_back(json::parse(line));
    }
    return lines;
  }

  int reader_ = -1;
};

TEST_F(AuditFifoTest, TakesNothingNewWhileADiskIsStuckAndLosesNothing) {
  auto log = Open();
  EXPECT_TRUE(log->Ready().ok());
  const auto began = std::chrono::steady_clock::now();
  AddCalls(*log, 1000);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(1)) << "no call waits";
  ASSERT_TRUE(Eventually([&] { return log->figures().behind; }));
  const absl::Status status = log->Ready();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), reason::kAuditUnavailable);
  EXPECT_TRUE(RetryDelayOf(status).has_value());
  const auto lines = ReadAll(*log);
  EXPECT_TRUE(log->Ready().ok());
  ASSERT_EQ(lines.size(), 1000U);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(lines[static_cast<size_t>(i)]["number"], i);
  }
  EXPECT_EQ(log->figures().lost, 0);
}

TEST_F(AuditFifoTest, TellsHowManyLinesAreMissingAndKeepsRoomForGenerations) {
  auto log = Open();
  AddCalls(*log, 40000);
  auto generation = MakeGeneration(TestSpec("a"));
  generation->End(TestError(absl::StatusCode::kCancelled, reason::kClientCancelled));
  log->Ended(*generation);
  const int64_t lost = log->figures().lost;
  EXPECT_GT(lost, 10000);
  const auto lines = ReadAll(*log);
  const auto of_event = [&](const char* event) {
    return std::count_if(lines.begin(), lines.end(),
                         [&](const json& line) { return line["event"] == event; });
  };
  EXPECT_EQ(of_event("call"), 40000 - lost);
  EXPECT_EQ(of_event("generation"), 1);
  ASSERT_EQ(of_event("lost"), 1);
  for (const json& line : lines) {
    EXPECT_TRUE(line["event"] != "lost" || line["lines"] == lost) << line;
  }
}

// A limit of the process stands in for the end of a disk: what fits is written, the rest is not.
class AuditLimitTest : public AuditTest {
 protected:
  AuditLimitTest() : before_(std::signal(SIGXFSZ, SIG_IGN)) { getrlimit(RLIMIT_FSIZE, &limit_); }
  ~AuditLimitTest() override {
    SetLimit(limit_.rlim_cur);
    std::signal(SIGXFSZ, before_);
  }
  void SetLimit(rlim_t bytes) const {
    const rlimit limit{bytes, limit_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }

 private:
  rlimit limit_{};
  void (*before_)(int);
};

TEST_F(AuditLimitTest, GoesOnInTheMiddleOfALineOnceADiskHasRoomAgain) {
  config_.max_delay = absl::Milliseconds(100);
  auto log = Open();
  SetLimit(1000);
  for (int i = 0; i < 100; ++i) {
    log->Call({{"method", "GetModel"}, {"number", i}});
  }
  ASSERT_TRUE(Eventually([&] { return log->figures().behind; }));
  EXPECT_EQ(std::filesystem::file_size(config_.file), 1000U);
  SetLimit(RLIM_INFINITY);
  ASSERT_TRUE(Eventually([&] { return log->figures().waiting == 0; }));
  EXPECT_TRUE(log->Ready().ok());
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 100U);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(lines[static_cast<size_t>(i)]["number"], i);
  }
}

TEST_F(AuditTest, IsBehindOnADiskThatIsFull) {
  config_.file = "/dev/full";
  config_.max_delay = absl::Milliseconds(50);
  auto log = Open();
  log->Call({{"method", "a"}});
  EXPECT_TRUE(Eventually([&] { return log->figures().behind; }));
  const auto began = std::chrono::steady_clock::now();
  log.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(3))
      << "it does not wait for room";
}

TEST_F(AuditTest, EndsALineThatAnEarlierProcessLeftUnfinished) {
  folder_.Write("audit.jsonl", R"({"event": "call"})"
                               "\n"
                               R"({"event": "ca)");
  Open()->Call({{"method", "a"}});
  std::ifstream file(config_.file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line);
  }
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(json::parse(lines[2])["method"], "a");
}

TEST_F(AuditTest, SetsNoOlderFileAsideTwice) {
  config_.max_bytes = 4096;
  config_.max_files = 3;
  folder_.Write("audit.2.jsonl", "old\n");
  auto log = Open();
  for (int i = 0; i < 60; ++i) {  // More than one file of them, less than two.
    log->Call({{"method", "GetModel"}, {"number", i}});
  }
  log.reset();
  EXPECT_TRUE(std::filesystem::exists(folder_.path("audit.1.jsonl")));
  EXPECT_EQ(folder_.Read("audit.2.jsonl"), "old\n") << "the gap below it is filled first";
}

TEST(NoAuditTest, WritesNothing) {
  auto log = AuditLog::Open({});
  ASSERT_TRUE(log.ok());
  (*log)->Call({{"method", "a"}});
}

}  // namespace
}  // namespace patchflow

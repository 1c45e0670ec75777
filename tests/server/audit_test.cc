#include "server/audit.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
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
  ASSERT_TRUE(generation->Start());
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
  EXPECT_DOUBLE_EQ(line["device_seconds"], 4 * line["run_seconds"].get<double>());
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

TEST(NoAuditTest, WritesNothing) {
  auto log = AuditLog::Open({});
  ASSERT_TRUE(log.ok());
  (*log)->Call({{"method", "a"}});
}

}  // namespace
}  // namespace patchflow

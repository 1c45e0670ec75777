#include "server/black_box.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class BlackBoxTest : public ::testing::Test {
 protected:
  BlackBoxTest() {
    GroupConfig config;
    config.name = "main";
    config.model = "/models/shapes";
    config.layout = "ulysses=2";
    group_ = std::make_unique<Group>(config);
  }
  static BlackBoxes::Death Loss(const std::string& why) {
    return {why, LossKind::kHeartbeat, absl::Seconds(2), "", nullptr};
  }
  size_t Files() const {
    const std::filesystem::directory_iterator files(folder_.path("boxes"));
    return static_cast<size_t>(std::distance(begin(files), end(files)));
  }
  nlohmann::json Read(const std::string& path) const {
    return nlohmann::json::parse(folder_.Read(path.substr(folder_.path().size() + 1)));
  }

  ScratchFolder folder_;
  std::unique_ptr<Group> group_;
};

TEST_F(BlackBoxTest, HoldsWhatIsKnownOfTheGroup) {
  group_->SetServing(nullptr, {});
  group_->SetRunning(1, {{MakeGeneration(TestSpec("request-6")), [] {}}});
  group_->SetRanksFree();
  group_->SetRunning(1, {{MakeGeneration(TestSpec("request-7")), [] {}},
                         {MakeGeneration(TestSpec("request-8")), [] {}}});
  worker::v1::WatchResponse beat;
  beat.set_state(worker::v1::WORKER_STATE_BUSY);
  beat.add_ranks()->set_step(3);
  beat.mutable_ranks(0)->set_phase(worker::v1::JOB_PHASE_DENOISE);
  beat.mutable_ranks(0)->set_memory_peak_bytes(1 << 30);
  group_->Beat(beat);
  BlackBoxes boxes({.directory = folder_.path("boxes")});
  const auto box = Read(boxes.Record(*group_, Loss("no heartbeat")));
  EXPECT_EQ(box["loss"]["kind"], "heartbeat");
  EXPECT_EQ(box["loss"]["why"], "no heartbeat");
  EXPECT_EQ(box["request"]["id"], "request-7");
  EXPECT_THAT(box["batch"], ElementsAre("request-7", "request-8"));
  EXPECT_THAT(box["tail"], ElementsAre("request-6")) << "whose last image was still compressed";
  EXPECT_EQ(box["beat"]["age_seconds"], 2.0);
  EXPECT_EQ(box["beat"]["ranks"][0]["phase"], "JOB_PHASE_DENOISE");
  EXPECT_EQ(box["beat"]["ranks"][0]["step"], 3);
  EXPECT_EQ(box["beat"]["ranks"][0]["memory_peak_bytes"], 1 << 30);
  EXPECT_EQ(box["configuration"]["layout"], "ulysses=2");
  EXPECT_THAT(box.dump(), Not(HasSubstr("a red circle"))) << "the prompt";
}

TEST_F(BlackBoxTest, SortsTheRecordersLines) {
  const std::string blank(100, ' ');
  folder_.Write("recorder", absl::StrCat("- rank=0 phase=text", blank, "\n", std::string(256, '\0'),
                                         "00000008 1.5 later", blank, "\n00000007 1.0 sooner\n",
                                         "stack: rank 0\n/bin/worker(+0x1)[0x2]\n"));
  BlackBoxes boxes({.directory = folder_.path("boxes")});
  BlackBoxes::Death death = Loss("");
  death.recorder = folder_.path("recorder");
  const auto recorder = Read(boxes.Record(*group_, death))["recorder"];
  EXPECT_THAT(recorder["kept"], ElementsAre("rank=0 phase=text"));
  EXPECT_THAT(recorder["events"], ElementsAre("00000007 1.0 sooner", "00000008 1.5 later"));
  EXPECT_THAT(recorder["stacks"], ElementsAre("stack: rank 0", "/bin/worker(+0x1)[0x2]"));
}

TEST_F(BlackBoxTest, KeepsTheNewestWithinItsBounds) {
  BlackBoxes few({.directory = folder_.path("boxes"), .max_files = 3});
  std::vector<std::string> paths;
  for (int i = 0; i < 5; ++i) paths.push_back(few.Record(*group_, Loss(absl::StrCat(i))));
  EXPECT_EQ(Files(), 3U);
  EXPECT_FALSE(std::filesystem::exists(paths[1]));
  EXPECT_TRUE(std::filesystem::exists(paths[2]));
  const auto size = static_cast<int64_t>(std::filesystem::file_size(paths[4]));
  BlackBoxes small({.directory = folder_.path("boxes"), .max_bytes = 2 * size + size / 2});
  small.Record(*group_, Loss("5"));
  EXPECT_EQ(Files(), 2U);
}

TEST_F(BlackBoxTest, IsForItsOwnerAlone) {
  BlackBoxes boxes({.directory = folder_.path("boxes")});
  const std::string path = boxes.Record(*group_, Loss(""));
  struct stat found {};
  ASSERT_EQ(stat(path.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600U);
  ASSERT_EQ(stat(folder_.path("boxes").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0700U);
}

TEST_F(BlackBoxTest, GoesOnWithoutAFolder) {
  folder_.Write("file", "");
  BlackBoxes boxes({.directory = folder_.path("file/boxes")});
  EXPECT_EQ(boxes.Record(*group_, Loss("")), "");
}

TEST_F(BlackBoxTest, TheConfigurationSetsBoundsAndWatchdogsAndAllowsNoChaosByItself) {
  std::filesystem::create_directory(folder_.path("model"));
  const std::string least = "groups: [{model: model}]\n";
  const auto plain = ParseConfig(least, "c.yaml", folder_.path());
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_FALSE(plain->chaos);
  EXPECT_EQ(plain->supervision.phase_timeout, absl::Seconds(10));
  const auto config = ParseConfig(
      least +
          "black_box: {directory: boxes, max_files: 7, max_bytes: 2000000}\nchaos: true\n"
          "supervision: {first_run_timeout: 6s, phase_timeout: 3s}\n",
      "c.yaml", folder_.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->black_box.directory, folder_.path("boxes"));
  EXPECT_EQ(config->black_box.max_files, 7);
  EXPECT_EQ(config->black_box.max_bytes, 2000000);
  EXPECT_EQ(config->supervision.first_run_timeout, absl::Seconds(6));
  EXPECT_EQ(config->supervision.phase_timeout, absl::Seconds(3));
  EXPECT_TRUE(config->chaos);
  const auto wrong = ParseConfig(least +
                                     "black_box: {max_files: 0}\nchaos: sometimes\n"
                                     "supervision: {phase_timeout: 10ms}\n",
                                 "c.yaml", folder_.path());
  for (const char* key : {"max_files", "chaos", "phase_timeout"}) {
    EXPECT_THAT(std::string(wrong.status().message()), HasSubstr(key));
  }
}

TEST_F(BlackBoxTest, HasADefaultFolder) {
  EXPECT_EQ(BlackBoxes({}).directory(), DefaultBlackBoxDirectory());
}

}  // namespace
}  // namespace patchflow

#include "engine/weights/checkpoint_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/weights/safetensors_writer.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class CheckpointFilesTest : public testing::Test {
 protected:
  void WriteOne(const std::string& name, double value) {
    dir_.Write(name, SafetensorsBytes({{"w", at::full({1}, value, at::kFloat)}}));
  }
  // The value of "w", which says what file was taken.
  float Taken() {
    const auto table = OpenCheckpoint(dir_.path());
    EXPECT_TRUE(table.ok()) << table.status();
    float value = 0;
    std::memcpy(&value, table->at("w").stored->data, sizeof(value));
    return value;
  }
  void WriteIndex(const std::string& name, const nlohmann::json& weight_map) {
    dir_.Write(
        name, nlohmann::json{{"metadata", {{"total_size", 8}}}, {"weight_map", weight_map}}.dump());
  }
  std::string Error(absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const absl::Status status = OpenCheckpoint(dir_.path()).status();
    EXPECT_EQ(status.code(), code) << status;
    return std::string(status.message());
  }

  ScratchDir dir_;
};

constexpr const char* kIndex = "diffusion_pytorch_model.safetensors.index.json";

TEST_F(CheckpointFilesTest, FindsEachLayoutInItsOrder) {
  WriteOne("model.fp16-00001-of-00001.safetensors", 1);
  WriteIndex("model.safetensors.index.fp16.json", {{"w", "model.fp16-00001-of-00001.safetensors"}});
  EXPECT_EQ(Taken(), 1);
  WriteOne("model.fp16.safetensors", 2);
  EXPECT_EQ(Taken(), 2);
  WriteIndex("diffusion_pytorch_model.safetensors.index.fp16.json", {{"w", "a.safetensors"}});
  WriteOne("a.safetensors", 3);
  EXPECT_EQ(Taken(), 3);
  WriteOne("diffusion_pytorch_model.fp16.safetensors", 4);
  EXPECT_EQ(Taken(), 4);
  WriteIndex("model.safetensors.index.json", {{"w", "b.safetensors"}});
  WriteOne("b.safetensors", 5);
  EXPECT_EQ(Taken(), 5);
  WriteOne("model.safetensors", 6);
  EXPECT_EQ(Taken(), 6);
  WriteIndex(kIndex, {{"w", "c.safetensors"}});
  WriteOne("c.safetensors", 7);
  EXPECT_EQ(Taken(), 7);
  WriteOne("diffusion_pytorch_model.safetensors", 8);
  EXPECT_EQ(Taken(), 8);
}

TEST_F(CheckpointFilesTest, SaysWhatItLookedFor) {
  EXPECT_THAT(Error(absl::StatusCode::kNotFound),
              AllOf(HasSubstr(dir_.path().string()), HasSubstr("model.fp16.safetensors"),
                    HasSubstr(kIndex)));
  dir_.Write("diffusion_pytorch_model.bin", "x");
  EXPECT_THAT(Error(absl::StatusCode::kNotFound),
              HasSubstr("diffusion_pytorch_model.bin is a pickle"));
}

TEST_F(CheckpointFilesTest, JoinsShards) {
  dir_.Write("1.safetensors", SafetensorsBytes({{"a", at::ones({2})}, {"b", at::ones({3})}}));
  dir_.Write("2.safetensors", SafetensorsBytes({{"c", at::ones({4})}}));
  WriteIndex(kIndex, {{"a", "1.safetensors"}, {"b", "1.safetensors"}, {"c", "2.safetensors"}});
  const auto table = OpenCheckpoint(dir_.path());
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->size(), 3);
  EXPECT_EQ(table->at("c").file->path().filename(), "2.safetensors");
}

TEST_F(CheckpointFilesTest, KeepsTensorsThatTheIndexForgot) {
  dir_.Write("1.safetensors", SafetensorsBytes({{"a", at::ones({2})}, {"b", at::ones({3})}}));
  WriteIndex(kIndex, {{"a", "1.safetensors"}});
  EXPECT_TRUE(OpenCheckpoint(dir_.path())->contains("b"));
}

TEST_F(CheckpointFilesTest, ReportsEveryAbsentShard) {
  dir_.Write("1.safetensors", SafetensorsBytes({{"a", at::ones({2})}}));
  WriteIndex(kIndex, {{"a", "1.safetensors"}, {"b", "2.safetensors"}, {"c", "3.safetensors"}});
  EXPECT_THAT(Error(absl::StatusCode::kNotFound),
              AllOf(HasSubstr("2.safetensors: No such file"), HasSubstr("3.safetensors: No such")));
}

TEST_F(CheckpointFilesTest, ReportsADamagedShard) {
  dir_.Write("1.safetensors", "short");
  WriteIndex(kIndex, {{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  EXPECT_THAT(Error(), AllOf(HasSubstr("5 bytes are no"), HasSubstr("2.safetensors: No such")));
}

TEST_F(CheckpointFilesTest, ReportsShardsThatDisagreeWithTheirIndex) {
  dir_.Write("1.safetensors", SafetensorsBytes({{"a", at::ones({2})}}));
  dir_.Write("2.safetensors", SafetensorsBytes({{"b", at::ones({2})}}));
  WriteIndex(kIndex, {{"a", "2.safetensors"}, {"b", "2.safetensors"}, {"z", "1.safetensors"}});
  EXPECT_THAT(Error(),
              AllOf(HasSubstr("tensor a should be in 2.safetensors, but is in 1.safetensors"),
                    HasSubstr("tensor z should be in 1.safetensors, but is nowhere")));
}

TEST_F(CheckpointFilesTest, ReportsATensorInTwoShards) {
  dir_.Write("1.safetensors", SafetensorsBytes({{"a", at::ones({2})}}));
  dir_.Write("2.safetensors", SafetensorsBytes({{"a", at::ones({2})}, {"b", at::ones({2})}}));
  WriteIndex(kIndex, {{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  EXPECT_THAT(Error(), HasSubstr("tensor a also stands in 1.safetensors"));
}

TEST_F(CheckpointFilesTest, RefusesWrongIndexes) {
  dir_.Write(kIndex, "{");
  EXPECT_THAT(Error(), AllOf(HasSubstr(kIndex), HasSubstr("not JSON at byte")));
  dir_.Write(kIndex, "{}");
  EXPECT_THAT(Error(), HasSubstr("holds no object weight_map"));
  WriteIndex(kIndex, nlohmann::json::object());
  EXPECT_THAT(Error(), HasSubstr("weight_map is empty"));
  WriteIndex(kIndex, {{"a", 3}});
  EXPECT_THAT(Error(), HasSubstr("a is in 3, which is no file name"));
}

TEST_F(CheckpointFilesTest, NeverLeavesItsFolder) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b", "..", ".", ""}) {
    WriteIndex(kIndex, {{"a", name}});
    EXPECT_THAT(Error(), HasSubstr("which is no file name")) << name;
  }
}

}  // namespace
}  // namespace patchflow

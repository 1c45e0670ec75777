#include "client/output_path.h"

#include <sys/stat.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

std::string Expand(const std::string& pattern, const OutputFields& fields) {
  return OutputPattern::Parse(pattern).value().Expand(fields);
}

TEST(OutputPatternTest, FillsEveryField) {
  const OutputFields fields{.prompt = 7,
                            .index = 2,
                            .seed = 42,
                            .request_id = "r-1",
                            .model = "shapes-256",
                            .ext = "png"};
  EXPECT_EQ(Expand("out/{model}/{prompt}-{index}-{seed}-{request_id}.{ext}", fields),
            "out/shapes-256/0007-2-42-r-1.png");
  EXPECT_EQ(Expand("plain.png", fields), "plain.png");
}

TEST(OutputPatternTest, NamesOfTheServerCantLeaveTheFolder) {
  EXPECT_EQ(Expand("{model}", {.model = "../../etc/passwd"}), "_._.._etc_passwd");
  EXPECT_EQ(Expand("{request_id}", {.request_id = ".."}), "_.");
  EXPECT_EQ(Expand("{model}", {.model = "a b\n{seed}"}), "a_b__seed_");
}

TEST(OutputPatternTest, RefusesWhatItCantFill) {
  const auto refusal = [](const std::string& text) {
    const absl::Status status = OutputPattern::Parse(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(refusal(""), "--out: the path is empty");
  EXPECT_EQ(refusal("{sed}.png"),
            "--out: {sed} is none of {prompt} {index} {seed} {request_id} {model} {ext}");
  EXPECT_EQ(refusal("{seed.png"), "--out: \"{seed.png\" has a { without its }");
  EXPECT_EQ(refusal("seed}.png"), "--out: \"seed}.png\" has a } without its {");
  EXPECT_THAT(refusal("{}"), HasSubstr("{} is none of"));
}

TEST(OutputPatternTest, RefusesSeveralImagesInOneFile) {
  const auto check = [](const std::string& text, int num_prompts, int count) {
    return std::string(
        OutputPattern::Parse(text).value().CheckDistinct(num_prompts, count).message());
  };
  EXPECT_EQ(check("a.png", 1, 1), "");
  EXPECT_EQ(check("a.png", 1, 3),
            "--out: \"a.png\" would be the file of 3 images: put {index} or {seed} into it");
  EXPECT_EQ(check("{index}.png", 2, 3),
            "--out: \"{index}.png\" would be the file of 2 prompts: put {prompt} or {request_id} "
            "into it");
  EXPECT_EQ(check("{prompt}-{seed}.png", 2, 3), "");
  EXPECT_EQ(check("-", 1, 2),
            "--out: \"-\" would be the file of 2 images: put {index} or {seed} into it");
}

TEST(WriteFileTest, MakesFoldersAndReplaces) {
  const ScratchFolder folder;
  const std::string path = folder / "a/b/c.png";
  ASSERT_TRUE(WriteFile(path, "first").ok());
  ASSERT_TRUE(WriteFile(path, std::string("sec\0ond", 7)).ok());
  EXPECT_EQ(ReadFile(path), std::string("sec\0ond", 7));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "a/b"), {}), 1);
}

TEST(WriteFileTest, SaysWhatTheSystemSays) {
  const ScratchFolder folder;
  ASSERT_TRUE(WriteFile(folder / "file", "x").ok());
  const absl::Status below_a_file = WriteFile(folder / "file/image.png", "x");
  EXPECT_FALSE(below_a_file.ok());
  EXPECT_THAT(std::string(below_a_file.message()), HasSubstr("can't write " + folder / "file"));
  const absl::Status a_folder = WriteFile(folder / "", "x");
  EXPECT_FALSE(a_folder.ok());
  const absl::Status full = WriteFile("/dev/full", std::string(100000, 'x'));
  EXPECT_THAT(std::string(full.message()), HasSubstr("can't write /dev/full"));
}

TEST(WriteFileTest, WritesToDevicesInPlace) {
  ASSERT_TRUE(WriteFile("/dev/null", "x").ok());
  struct stat status {};
  ASSERT_EQ(stat("/dev/null", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

}  // namespace
}  // namespace patchflow

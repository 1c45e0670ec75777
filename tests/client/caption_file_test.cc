#include "client/caption_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;

class CaptionFileTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<std::string>> Read(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return ReadCaptions(folder_ / name);
  }
  // What is said of the file, after its path.
  std::string Refusal(const std::string& name, const std::string& text) {
    const absl::Status status = Read(name, text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    const std::string begin = "--captions: " + folder_ / name;
    const std::string message(status.message());
    EXPECT_EQ(message.substr(0, begin.size()), begin);
    return message.size() < begin.size() ? message : message.substr(begin.size());
  }

  ScratchFolder folder_;
};

TEST_F(CaptionFileTest, KarpathyGivesTheFirstSentenceOfEachImage) {
  const auto captions = Read("dataset_coco.json", R"({"images": [
    {"filepath": "val2014", "sentids": [1, 2], "filename": "a.jpg", "imgid": 0, "split": "test",
     "sentences": [{"tokens": ["a", "man"], "raw": " A man. ", "imgid": 0, "sentid": 1},
                   {"tokens": ["two"], "raw": "Two.", "imgid": 0, "sentid": 2}], "cocoid": 391895},
    {"sentences": [{"tokens": [], "raw": "Caf\u00e9."}], "cocoid": 522418}], "dataset": "coco"})");
  EXPECT_THAT(captions.value(), ElementsAre("A man.", "Caf\xC3\xA9."));
}

TEST_F(CaptionFileTest, OfficialGivesTheFirstAnnotationInTheOrderOfTheImages) {
  const auto captions = Read("captions_val2014.json", R"({"info": {}, "licenses": [],
    "images": [{"id": 9, "file_name": "b.jpg"}, {"id": 4, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 4, "id": 1, "caption": "four"},
                    {"image_id": 9, "id": 2, "caption": "nine\n"},
                    {"image_id": 4, "id": 3, "caption": "again"}]})");
  EXPECT_THAT(captions.value(), ElementsAre("nine", "four"));
}

TEST_F(CaptionFileTest, PartiPromptsGivesItsPromptColumn) {
  const auto captions = Read("PartiPrompts.tsv",
                             "Prompt\tCategory\tChallenge\tNote\r\n"
                             "bond\tAbstract\tBasic\tBiology-inspired\r\n"
                             "\"a sign that says \"\"hi\tyou\"\"\nbelow\"\tArts\tWriting\t\r\n"
                             "a 6\" ruler\tArtifacts\tBasic\t\r\n\r\nlast\tx");
  EXPECT_THAT(captions.value(),
              ElementsAre("bond", "a sign that says \"hi\tyou\"\nbelow", "a 6\" ruler", "last"));
  EXPECT_THAT(Read("x.TSV", "\xEF\xBB\xBFPrompt\none\n").value(), ElementsAre("one"));
  EXPECT_THAT(Read("y.tsv", "Category\tPrompt\na\tb\n").value(), ElementsAre("b"));
}

TEST_F(CaptionFileTest, OtherFilesHaveACaptionALine) {
  EXPECT_THAT(Read("captions.txt", "a fish\n\n{\"images\": 3}\r\n").value(),
              ElementsAre("a fish", "{\"images\": 3}"));
}

TEST_F(CaptionFileTest, MissingFilesAreNamed) {
  for (const std::string name : {"x.json", "x.tsv"}) {
    EXPECT_EQ(ReadCaptions(folder_ / name).status().message(),
              "--captions: " + folder_ / name + ": can't be read");
  }
  EXPECT_EQ(ReadCaptions(folder_ / "x.txt").status().message(),
            "--captions: can't read " + folder_ / "x.txt");
}

TEST_F(CaptionFileTest, MalformedJsonSaysWhere) {
  EXPECT_EQ(Refusal("a.json", "{\"images\": [\n  {]}").substr(0, 33),
            ": parse error at line 2, column 4");
  EXPECT_EQ(Refusal("a.json", "{\"images\": [\"d\xE9j\xE0\"]}").substr(0, 14), ": parse error ");
  EXPECT_EQ(Refusal("a.json", ""), ": is empty");
  EXPECT_EQ(Refusal("a.json", "[1]"), ": has no list \"images\"");
  EXPECT_EQ(Refusal("a.json", "{\"images\": {}}"), ": has no list \"images\"");
  EXPECT_EQ(Refusal("a.json", "{\"images\": []}"), " has no captions");
}

TEST_F(CaptionFileTest, JsonOfAnotherShapeSaysWhich) {
  EXPECT_EQ(Refusal("a.json", R"({"images": [3]})"), ": images[0]: has no \"sentences\"");
  EXPECT_EQ(Refusal("a.json", R"({"images": [{"sentences": [{"raw": "a"}]}, {"sentences": []}]})"),
            ": images[1]: has no \"sentences\"");
  EXPECT_EQ(Refusal("a.json", R"({"images": [{"sentences": [{"raw": 3}]}]})"),
            ": images[0].sentences[0]: has no text \"raw\"");
  EXPECT_EQ(Refusal("a.json", R"({"images": [{"sentences": [{"raw": " \n"}]}]})"),
            ": images[0].sentences[0]: the caption is empty");
  EXPECT_EQ(Refusal("a.json", R"({"images": [{"id": 1}], "annotations": [{"caption": "a"}]})"),
            ": annotations[0]: has no number \"image_id\"");
  EXPECT_EQ(Refusal("a.json", R"({"images": [{"id": 1}], "annotations": [{"image_id": 1}]})"),
            ": annotations[0]: has no text \"caption\"");
  EXPECT_EQ(Refusal("a.json", R"({"images": [{"id": "1"}], "annotations": []})"),
            ": images[0]: has no number \"id\"");
  EXPECT_EQ(Refusal("a.json",
                    R"({"images": [{"id": 1}], "annotations": [{"image_id": 2, "caption": "a"}]})"),
            ": images[0]: no annotation for its id 1");
}

TEST_F(CaptionFileTest, MalformedTsvSaysWhere) {
  EXPECT_EQ(Refusal("a.tsv", "Caption\na\n"), ":1: has no column \"Prompt\"");
  EXPECT_EQ(Refusal("a.tsv", "Prompt\n"), " has no captions");
  EXPECT_EQ(Refusal("a.tsv", "Prompt\n\"a\nb\"\n\"c\n"), ":4: a quote is not closed");
  EXPECT_EQ(Refusal("a.tsv", "Note\tPrompt\nx\n"), ":2: has no field \"Prompt\"");
  EXPECT_EQ(Refusal("a.tsv", "Prompt\tNote\n \tx\n"), ":2: the caption is empty");
  EXPECT_EQ(Refusal("a.tsv", "Prompt\nd\xE9j\xE0\n"), ":2: is not UTF-8");
}

}  // namespace
}  // namespace patchflow

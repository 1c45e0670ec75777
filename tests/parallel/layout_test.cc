#include "parallel/layout.h"

#include <gmock/gmock.h>

namespace patchflow {
namespace {

using testing::HasSubstr;

TransformerConfig Model(int blocks, int heads) {
  TransformerConfig model;
  model.num_blocks = blocks;
  model.num_heads = heads;
  return model;
}

Layout Parsed(std::string_view text) {
  const auto layout = ParseLayout(text);
  EXPECT_TRUE(layout.ok()) << layout.status();
  return layout.value_or(Layout{});
}

std::string ParseError(std::string_view text) {
  const auto layout = ParseLayout(text);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(layout.status().message());
}

std::string CheckError(std::string_view text, int ranks, const TransformerConfig& model) {
  const absl::Status status = CheckLayout(Parsed(text), ranks, model);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

TEST(LayoutTest, ReadsEveryKey) {
  const Layout layout = Parsed(
      "pipefusion=2,patches=3,warmup_steps=4,ulysses=5,ring=6,tensor=7,guidance=2,blocks=3+5,"
      "shared_text=1,cuda_graphs=0");
  EXPECT_EQ(layout, (Layout{.pipefusion = 2,
                            .patches = 3,
                            .distrifusion = 1,
                            .warmup_steps = 4,
                            .ulysses = 5,
                            .ring = 6,
                            .tensor = 7,
                            .guidance = 2,
                            .blocks = {3, 5},
                            .shared_text = true,
                            .cuda_graphs = false}));
  EXPECT_EQ(layout.ranks(), 2 * 5 * 6 * 7 * 2);
  EXPECT_EQ(Parsed("distrifusion=4").ranks(), 4);
}

TEST(LayoutTest, NothingIsSerial) {
  EXPECT_EQ(Parsed(""), Layout{});
  EXPECT_EQ(Parsed("serial"), Layout{});
  EXPECT_EQ(ToString(Layout{}), "serial");
  EXPECT_EQ(ToString(Parsed("tensor=1,ulysses=1")), "serial");
}

TEST(LayoutTest, ReadsBackWhatItWrites) {
  for (const char* text :
       {"serial", "pipefusion=2,patches=4,warmup_steps=1", "pipefusion=1,patches=4,warmup_steps=2",
        "distrifusion=3,warmup_steps=1", "ulysses=2,ring=3,tensor=4,guidance=2",
        "pipefusion=2,patches=2,warmup_steps=1,blocks=3+5", "tensor=2,cuda_graphs=0",
        "ring=2,shared_text=1,cuda_graphs=0"}) {
    EXPECT_EQ(ToString(Parsed(text)), text);
  }
  EXPECT_EQ(ToString(Parsed("ring=2, ulysses=2")), "ulysses=2,ring=2");
}

TEST(LayoutTest, PatchesAreTwiceTheStagesUnlessGiven) {
  EXPECT_EQ(Parsed("pipefusion=3").patches, 6);
  EXPECT_EQ(Parsed("pipefusion=3,patches=1").patches, 1);
  EXPECT_EQ(Parsed("pipefusion=1").patches, 1);
}

TEST(LayoutTest, RefusesWhatItCannotRead) {
  EXPECT_THAT(ParseError("pipe=2"), HasSubstr("unknown key 'pipe'"));
  EXPECT_THAT(ParseError("tensor"), HasSubstr("tensor: '' is not a number from 1 to 1024"));
  EXPECT_THAT(ParseError("tensor=0"), HasSubstr("tensor: '0'"));
  EXPECT_THAT(ParseError("tensor=2x"), HasSubstr("tensor: '2x'"));
  EXPECT_THAT(ParseError("tensor=2,tensor=2"), HasSubstr("tensor is given twice"));
  EXPECT_THAT(ParseError("pipefusion=2,blocks=3+0"), HasSubstr("blocks: '3+0'"));
  EXPECT_THAT(ParseError("cuda_graphs=maybe"), HasSubstr("cuda_graphs: 'maybe'"));
  EXPECT_THAT(ParseError("ring=2,shared_text=2"), HasSubstr("shared_text: '2'"));
}

TEST(LayoutTest, RefusesKeysThatMeanNothing) {
  EXPECT_THAT(ParseError("patches=4"), HasSubstr("without pipefusion"));
  EXPECT_THAT(ParseError("blocks=4"), HasSubstr("without pipefusion"));
  EXPECT_THAT(ParseError("ulysses=4,warmup_steps=1"),
              HasSubstr("without pipefusion or distrifusion"));
  EXPECT_THAT(ParseError("ulysses=1,shared_text=1"),
              HasSubstr("shared_text means nothing for one rank"));
}

TEST(LayoutTest, AcceptsWhatFits) {
  for (const char* text :
       {"pipefusion=2,ulysses=2,tensor=2", "pipefusion=8", "distrifusion=4,tensor=2",
        "distrifusion=4,guidance=2", "ulysses=2,ring=2,guidance=2",
        "pipefusion=2,ring=2,guidance=2", "tensor=8", "pipefusion=8,blocks=1+1+1+1+1+1+1+1"}) {
    EXPECT_TRUE(CheckLayout(Parsed(text), 8, Model(8, 8)).ok()) << text;
  }
  EXPECT_TRUE(CheckLayout(Layout{}, 1, Model(1, 1)).ok());
}

TEST(LayoutTest, RefusesAnotherNumberOfRanks) {
  EXPECT_THAT(CheckError("tensor=2,guidance=2", 8, Model(8, 8)),
              HasSubstr("'tensor=2,guidance=2' is for 4 ranks, the group has 8"));
}

TEST(LayoutTest, RefusesMoreThanTwoBranches) {
  EXPECT_THAT(CheckError("guidance=3", 3, Model(8, 8)), HasSubstr("guidance: 3"));
}

TEST(LayoutTest, RefusesToCombineTwoDivisionsOfTheTokens) {
  for (const char* text :
       {"distrifusion=2,pipefusion=2", "distrifusion=2,ulysses=2", "distrifusion=2,ring=2"}) {
    EXPECT_THAT(CheckError(text, 4, Model(8, 8)), HasSubstr("distrifusion already divides"));
  }
}

TEST(LayoutTest, StaleMethodsNeedOneSynchronousStep) {
  EXPECT_THAT(CheckError("pipefusion=2,warmup_steps=0", 2, Model(8, 8)),
              HasSubstr("warmup_steps: 0 is less than 1"));
  EXPECT_THAT(CheckError("distrifusion=2,warmup_steps=0", 2, Model(8, 8)),
              HasSubstr("warmup_steps: 0 is less than 1"));
}

TEST(LayoutTest, RefusesHeadsThatCannotBeDivided) {
  EXPECT_THAT(CheckError("ulysses=4", 4, Model(8, 6)),
              HasSubstr("ulysses: 6 heads can't be divided over 4 ranks"));
  EXPECT_THAT(CheckError("ulysses=2,tensor=2", 4, Model(8, 6)),
              HasSubstr("ulysses: 3 heads (of 6, split by tensor=2) can't be divided over 2"));
  EXPECT_THAT(CheckError("tensor=4", 4, Model(8, 3)), HasSubstr("tensor: 4 ranks for 3 heads"));
  EXPECT_TRUE(CheckLayout(Parsed("tensor=4"), 4, Model(8, 6)).ok());
}

TEST(LayoutTest, RefusesBlocksThatDoNotAddUp) {
  EXPECT_THAT(CheckError("pipefusion=3", 3, Model(2, 8)), HasSubstr("3 stages for 2 blocks"));
  EXPECT_THAT(CheckError("pipefusion=2,blocks=3+4+1", 2, Model(8, 8)),
              HasSubstr("3+4+1 lists 3 stages, pipefusion has 2"));
  EXPECT_THAT(CheckError("pipefusion=2,blocks=3+4", 2, Model(8, 8)),
              HasSubstr("3+4 is 7 blocks, the model has 8"));
}

TEST(LayoutTest, RefusesImagesWithTooFewTokens) {
  EXPECT_TRUE(CheckTokens(Parsed("pipefusion=2,patches=4,ulysses=2"), {2, 4}).ok());
  const absl::Status status = CheckTokens(Parsed("pipefusion=2,patches=4,ulysses=2"), {1, 7});
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("into 8 shares, but one of 1 x 7 tokens has only 7"));
  // 4 patches of 2, 2, 2 and 3 tokens over 3 ranks.
  EXPECT_FALSE(CheckTokens(Parsed("pipefusion=2,patches=4,ring=3"), {1, 9}).ok());
}

TEST(LayoutTest, StagesHaveConsecutiveBlocks) {
  const auto begins = [](const Layout& layout, int blocks) {
    std::vector<int> bounds;
    for (int stage = 0; stage < layout.pipefusion; ++stage) {
      bounds.push_back(BlocksOf(layout, stage, blocks).begin);
      bounds.push_back(BlocksOf(layout, stage, blocks).end);
    }
    return bounds;
  };
  EXPECT_THAT(begins(Parsed("pipefusion=3"), 8), testing::ElementsAre(0, 3, 3, 6, 6, 8));
  EXPECT_THAT(begins(Parsed("pipefusion=3,blocks=1+5+2"), 8),
              testing::ElementsAre(0, 1, 1, 6, 6, 8));
  EXPECT_THAT(begins(Layout{}, 8), testing::ElementsAre(0, 8));
}

}  // namespace
}  // namespace patchflow

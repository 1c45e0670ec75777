#include "server/memory_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/pixart_folder.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class MemoryTableTest : public ::testing::Test {
 protected:
  MemoryTableTest() {
    WritePixartFolder(folder_, "m");
    auto shape = ReadModelShape(folder_.path("m"));
    EXPECT_TRUE(shape.ok()) << shape.status();
    shape_ = *shape;
  }
  // In bfloat16.
  RankMemory Of(const std::string& layout, int64_t size_px, int64_t rank = 0) const {
    return MemoryOfRank(shape_, DegreesOf(layout), rank, size_px, size_px, 2);
  }
  double Gb(const std::string& layout, int64_t size_px) const {
    return static_cast<double>(Of(layout, size_px).total()) / 1e9;
  }

  ScratchFolder folder_;
  ModelShape shape_;
};

TEST_F(MemoryTableTest, ReadsTheModel) {
  EXPECT_EQ(shape_.text_elements, 4762310656);
  EXPECT_EQ(shape_.block_elements.size(), 28U);
  EXPECT_EQ(shape_.block_elements[27], 16 * 1152 * 1152);
  EXPECT_EQ(shape_.transformer_elements, 6912 * 1152);
  EXPECT_EQ(shape_.decoder_elements, 49490179) << "the encoder is not loaded";
  EXPECT_EQ(shape_.width, 1152);
  EXPECT_EQ(shape_.token_px, 16);
  EXPECT_EQ(shape_.decoder_channels, 128);
  EXPECT_EQ(shape_.own_size_px, 1024);
}

// README: peak memory of a GPU, an image of 1024 px, H200.
TEST_F(MemoryTableTest, IsWhatWasMeasuredOfWholeImages) {
  EXPECT_NEAR(Gb("", 1024), 12.2, 0.05 * 12.2);
  EXPECT_NEAR(Gb("ulysses=2", 1024), 11.8, 0.05 * 11.8);
  EXPECT_NEAR(Gb("pipefusion=2,patches=4,warmup_steps=1", 1024), 11.7, 0.05 * 11.7);
  EXPECT_NEAR(Gb("ulysses=2,shared_text=1", 1024), 7.2, 0.05 * 7.2);
  EXPECT_NEAR(Gb("pipefusion=2,patches=4,warmup_steps=1,shared_text=1", 1024), 7.1, 0.05 * 7.1);
}

// README: peak GB a GPU at 2048 px, of the transformer alone: its weights, caches and a step.
TEST_F(MemoryTableTest, IsWhatWasMeasuredOfSteps) {
  ModelShape steps = shape_;
  steps.text_elements = steps.decoder_elements = steps.decoder_channels = 0;
  const auto gb = [&](const std::string& layout) {
    RankMemory memory = MemoryOfRank(steps, DegreesOf(layout), 0, 2048, 2048, 2);
    return static_cast<double>(memory.total()) / 1e9;
  };
  EXPECT_NEAR(gb(""), 2.1, 0.15 * 2.1);
  EXPECT_NEAR(gb("tensor=2"), 1.3, 0.15 * 1.3);
  EXPECT_NEAR(gb("distrifusion=2"), 6.2, 0.15 * 6.2);
  EXPECT_NEAR(gb("pipefusion=2,patches=2"), 3.9, 0.15 * 3.9);
}

TEST_F(MemoryTableTest, ABatchTakesItsStepsAndCachesAsOftenAsItHasImages) {
  for (const char* layout : {"", "pipefusion=2,patches=4,warmup_steps=1", "distrifusion=2"}) {
    const auto of = [&](int64_t batch_size) {
      return MemoryOfRank(shape_, DegreesOf(layout), 0, 2048, 2048, 2, batch_size);
    };
    EXPECT_EQ(of(4).weights, of(1).weights);
    EXPECT_EQ(of(4).caches, 4 * of(1).caches);
    EXPECT_EQ(of(1), Of(layout, 2048));
    EXPECT_EQ(of(1).work, of(2).work) << "images are decoded one after the other";
    EXPECT_EQ(of(16).work, 2 * of(8).work) << "a step needs more than decoding then";
  }
}

// bench/README, VAE: memory over weights and output.
TEST_F(MemoryTableTest, IsWhatWasMeasuredOfDecoding) {
  for (const auto& [size_px, one, two] :
       {std::tuple{1024, 1.25, 0.84}, {2048, 2.87, 1.82}, {4096, 9.39, 5.08}, {8192, 36.5, 18.1}}) {
    EXPECT_NEAR(static_cast<double>(Of("", size_px).work) / 1e9, one, 0.2 * one) << size_px;
    EXPECT_NEAR(static_cast<double>(Of("ring=2", size_px).work) / 1e9, two, 0.3 * two) << size_px;
  }
}

TEST_F(MemoryTableTest, RanksHoldTheTextEncoderWholeUnlessTheyShareIt) {
  const int64_t text = 2 * shape_.text_elements;
  EXPECT_EQ(Of("ulysses=4", 1024).weights, Of("", 1024).weights);
  EXPECT_EQ(Of("ulysses=4,shared_text=1", 1024).weights, Of("", 1024).weights - text * 3 / 4);
  EXPECT_EQ(Of("ulysses=4,shared_text=0", 1024), Of("ulysses=4", 1024));
}

TEST_F(MemoryTableTest, StagesHoldTheirOwnBlocks) {
  const auto weights = [&](const std::string& layout, int64_t rank) {
    return (Of(layout, 1024, rank).weights - Of(layout, 1024, 0).weights) / (2 * 16 * 1152 * 1152);
  };
  EXPECT_EQ(weights("pipefusion=2,blocks=10+18", 1), 8);
  EXPECT_EQ(weights("pipefusion=3", 1), -1) << "10, 9, 9";
  EXPECT_EQ(weights("pipefusion=3", 2), -1);
  // Ranks of one stage are neighbours; guidance is outermost.
  EXPECT_EQ(weights("pipefusion=2,blocks=10+18,ulysses=2,guidance=2", 1), 0);
  EXPECT_EQ(weights("pipefusion=2,blocks=10+18,ulysses=2,guidance=2", 2), 8);
  EXPECT_EQ(weights("pipefusion=2,blocks=10+18,ulysses=2,guidance=2", 4), 0);
}

TEST_F(MemoryTableTest, ReadsDegrees) {
  const LayoutDegrees degrees =
      DegreesOf("pipefusion=2,patches=4,guidance=2,blocks=3+5,cuda_graphs=0");
  EXPECT_EQ(degrees.ranks(), 4);
  EXPECT_EQ(degrees.patches, 4);
  EXPECT_THAT(degrees.blocks, ElementsAre(3, 5));
  EXPECT_EQ(DegreesOf("").ranks(), 1);
  EXPECT_EQ(DegreesOf("distrifusion=2,ulysses=2,ring=3,tensor=2").ranks(), 24);
}

TEST_F(MemoryTableTest, SaysWhatIsNotTold) {
  folder_.Write("m/transformer/config.json", R"({"num_attention_heads": 16, "patch_size": 0})");
  folder_.Write("m/vae/config.json", "no JSON");
  const std::string said(ReadModelShape(folder_.path("m")).status().message());
  for (const char* name :
       {"attention_head_dim", "patch_size", "sample_size", "block_out_channels"}) {
    EXPECT_THAT(said, HasSubstr(name));
  }
  folder_.Write("m/text_encoder/a.safetensors", "x");
  EXPECT_THAT(std::string(ReadModelShape(folder_.path("m")).status().message()),
              HasSubstr("has no header of safetensors"));
}

}  // namespace
}  // namespace patchflow

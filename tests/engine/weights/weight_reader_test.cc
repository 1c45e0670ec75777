#include "engine/weights/weight_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/weights/safetensors_writer.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

Tensor Random(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return at::randn(shape, at::TensorOptions().dtype(at::kFloat)).to(dtype);
}

bool Same(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() && at::equal(a, b);
}

class WeightReaderTest : public testing::Test {
 protected:
  WeightReaderTest() {
    at::manual_seed(1);
    tensors_ = {{"f.weight", Random({7, 6})},
                {"f.bias", Random({7})},
                {"h.weight", Random({6, 14}, at::kHalf)},
                {"h.bias", Random({6}, at::kHalf)},
                {"b.conv", Random({4, 2, 3, 3}, at::kBFloat16)},
                {"d", Random({3}, at::kDouble)},
                {"ids", at::arange(3)}};
  }
  WeightReader Open(const ReadOptions& options = {}, size_t alignment = 8) {
    dir_.Write("model.safetensors", SafetensorsBytes(tensors_, alignment));
    auto reader = WeightReader::Open(dir_.path(), options);
    EXPECT_TRUE(reader.ok()) << reader.status();
    return *std::move(reader);
  }

  ScratchDir dir_;
  std::map<std::string, Tensor> tensors_;
};

class SumOver final : public PartialSum {
 public:
  explicit SumOver(Tensor others) : others_(std::move(others)) {}
  Tensor Complete(Tensor partial) override {
    ++calls_;
    return partial.add_(others_);
  }
  int calls() const { return calls_; }

 private:
  Tensor others_;
  int calls_ = 0;
};

TEST(ShareOfTest, GivesTheFirstShardsOneMore) {
  const auto share = [](int64_t units, int index, int count) {
    const UnitRange range = ShareOf(units, {index, count});
    return std::pair(range.begin, range.end);
  };
  EXPECT_EQ(share(10, 0, 1), std::pair(0L, 10L));
  EXPECT_EQ(share(10, 0, 3), std::pair(0L, 4L));
  EXPECT_EQ(share(10, 1, 3), std::pair(4L, 7L));
  EXPECT_EQ(share(10, 2, 3), std::pair(7L, 10L));
  EXPECT_EQ(share(2, 1, 3), std::pair(1L, 2L));
  EXPECT_EQ(share(2, 2, 3), std::pair(2L, 2L));
  EXPECT_EQ(share(0, 2, 3), std::pair(0L, 0L));
}

TEST(ShareOfTest, CoversEveryUnitOnce) {
  for (int64_t units = 0; units < 40; ++units) {
    for (int count = 1; count < 9; ++count) {
      int64_t at = 0;
      for (int index = 0; index < count; ++index) {
        const UnitRange range = ShareOf(units, {index, count});
        EXPECT_EQ(range.begin, at);
        EXPECT_GE(range.size(), units / count);
        EXPECT_LE(range.size(), units / count + 1);
        at = range.end;
      }
      EXPECT_EQ(at, units);
    }
  }
}

TEST_F(WeightReaderTest, ConvertsEveryStoredDtypeToEveryWantedOne) {
  for (const at::ScalarType wanted : {at::kFloat, at::kHalf, at::kBFloat16}) {
    WeightReader reader = Open({.dtype = wanted});
    EXPECT_TRUE(Same(reader.Raw("f.weight", {7, 6}), tensors_["f.weight"].to(wanted)));
    EXPECT_TRUE(Same(reader.Raw("h.weight", {6, 14}), tensors_["h.weight"].to(wanted)));
    EXPECT_TRUE(Same(reader.Raw("b.conv", {4, 2, 3, 3}), tensors_["b.conv"].to(wanted)));
    EXPECT_TRUE(Same(reader.Raw("d", {3}), tensors_["d"].to(wanted)));
    EXPECT_EQ(reader.bytes_read(),
              (42 + 84 + 72 + 3) * static_cast<int64_t>(c10::elementSize(wanted)));
  }
}

TEST_F(WeightReaderTest, ReadsUnderAnotherDtypeWhenTold) {
  WeightReader reader = Open({.dtype = at::kHalf});
  EXPECT_TRUE(
      Same(reader.As(at::kFloat).In("h").Raw("bias", {6}), tensors_["h.bias"].to(at::kFloat)));
  EXPECT_TRUE(
      Same(reader.In("h").As(at::kFloat).Raw("bias", {6}), tensors_["h.bias"].to(at::kFloat)));
  EXPECT_EQ(reader.Raw("h.bias", {6}).scalar_type(), at::kHalf);
}

// Reads /proc/self/maps: whether this address is the file's.
bool IsMapped(const void* address, const std::string& file) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2 && line.ends_with(file) &&
        reinterpret_cast<uintptr_t>(address) >= begin &&
        reinterpret_cast<uintptr_t>(address) < end) {
      return true;
    }
  }
  return false;
}

TEST_F(WeightReaderTest, HandsOutTheFilesOwnPagesWhereNothingChanges) {
  Tensor whole;
  Tensor rows;
  Tensor columns;
  Tensor converted;
  {
    WeightReader reader = Open({.dtype = at::kFloat, .shard = {1, 2}});
    whole = reader.Raw("f.weight", {7, 6});
    rows = reader.RawSlice("f.weight", {7, 6}, 0, 1);
    columns = reader.RawSlice("f.weight", {7, 6}, 1, 1);
    converted = reader.Raw("h.weight", {6, 14});
  }
  const std::string file = (dir_.path() / "model.safetensors").string();
  EXPECT_TRUE(IsMapped(whole.const_data_ptr(), file));
  EXPECT_TRUE(IsMapped(rows.const_data_ptr(), file));
  EXPECT_FALSE(IsMapped(columns.const_data_ptr(), file));
  EXPECT_FALSE(IsMapped(converted.const_data_ptr(), file));
  EXPECT_TRUE(Same(whole, tensors_["f.weight"]));
  EXPECT_TRUE(Same(rows, tensors_["f.weight"].narrow(0, 4, 3)));
  EXPECT_TRUE(columns.is_contiguous());
  const void* address = whole.const_data_ptr();
  whole = rows = Tensor();
  EXPECT_FALSE(IsMapped(address, file));
}

TEST_F(WeightReaderTest, CopiesWhatIsNotAligned) {
  for (size_t odd = 0; odd < 4; ++odd) {
    tensors_[std::string(odd + 1, 'a')] = at::ones({1}, at::kFloat);
    WeightReader reader = Open({}, /*alignment=*/1);
    const Tensor weight = reader.Raw("f.weight", {7, 6});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(weight.const_data_ptr()) % sizeof(float), 0);
    EXPECT_TRUE(Same(weight, tensors_["f.weight"]));
  }
}

TEST_F(WeightReaderTest, SplitsOutputsByUnits) {
  for (int index = 0; index < 3; ++index) {
    WeightReader reader = Open({.shard = {index, 3}});
    const Linear layer = reader.SplitOutputs("h", 6, 14, /*unit=*/2);
    EXPECT_TRUE(Same(layer.weight_OI, tensors_["h.weight"].narrow(0, 2 * index, 2).to(at::kFloat)));
    EXPECT_TRUE(Same(layer.bias_O, tensors_["h.bias"].narrow(0, 2 * index, 2).to(at::kFloat)));
  }
}

TEST_F(WeightReaderTest, SplitsInputsByUnitsAndKeepsTheBiasWhole) {
  WeightReader reader = Open({.shard = {1, 3}});
  const RowLinear layer = reader.SplitInputs("h", 6, 14, /*unit=*/2);
  EXPECT_TRUE(Same(layer.weight_OI, tensors_["h.weight"].narrow(1, 6, 4).to(at::kFloat)));
  EXPECT_TRUE(Same(layer.bias_O, tensors_["h.bias"].to(at::kFloat)));
  EXPECT_FALSE(layer.whole);
}

TEST_F(WeightReaderTest, GivesAShardBeyondTheUnitsNothing) {
  WeightReader reader = Open({.shard = {3, 4}});
  const Linear up = reader.SplitOutputs("h", 6, 14, /*unit=*/2);
  EXPECT_EQ(up.weight_OI.sizes(), (std::vector<int64_t>{0, 14}));
  EXPECT_EQ(up.bias_O.numel(), 0);
  const RowLinear down = reader.SplitInputs("f", 7, 6, /*unit=*/2);
  EXPECT_EQ(down.weight_OI.sizes(), (std::vector<int64_t>{7, 0}));
  const Tensor x = up(at::ones({2, 5, 14}));
  EXPECT_EQ(x.sizes(), (std::vector<int64_t>{2, 5, 0}));
  LocalSum none;
  EXPECT_TRUE(at::equal(down(x, none), tensors_["f.bias"].expand({2, 5, 7})));
}

TEST_F(WeightReaderTest, ShardsOfALayerSumToTheWhole) {
  const Tensor x = Random({3, 14});
  WeightReader whole_reader = Open();
  LocalSum local;
  const Tensor whole = whole_reader.SplitInputs("h", 6, 14)(x, local);
  Tensor sum = at::zeros({3, 6});
  for (int index = 0; index < 3; ++index) {
    WeightReader reader = Open({.shard = {index, 3}});
    const RowLinear part = reader.SplitInputs("h", 6, 14);
    const UnitRange mine = ShareOf(14, {index, 3});
    const Tensor x_part = x.narrow(1, mine.begin, mine.size());
    if (index < 2) {
      sum.add_(at::linear(x_part, part.weight_OI));
      continue;
    }
    SumOver others(sum);
    EXPECT_LT((part(x_part, others) - whole).abs().max().item<float>(), 1e-5);
    EXPECT_EQ(others.calls(), 1);
  }
}

TEST_F(WeightReaderTest, AWholeRowLinearIsALinearToTheBit) {
  WeightReader reader = Open();
  const Tensor x = Random({5, 6});
  SumOver sum(at::ones({5, 7}));
  EXPECT_TRUE(at::equal(reader.SplitInputs("f", 7, 6)(x, sum), reader.Replicated("f", 7, 6)(x)));
  EXPECT_EQ(sum.calls(), 0);
}

TEST_F(WeightReaderTest, RowLinearWithoutBiasAddsNone) {
  WeightReader reader = Open({.shard = {0, 1}});
  RowLinear layer = reader.SplitInputs("f", 7, 6, 1, Bias::kNo);
  EXPECT_FALSE(layer.bias_O.defined());
  layer.whole = false;
  LocalSum local;
  const Tensor x = Random({5, 6});
  EXPECT_TRUE(at::equal(layer(x, local), at::linear(x, tensors_["f.weight"])));
}

TEST_F(WeightReaderTest, ReportsAllMissingMisshapenAndUnreadTensorsAtOnce) {
  WeightReader reader = Open();
  const Linear missing = reader.In("blocks.0").Replicated("gone", 3, 4);
  EXPECT_FALSE(missing.weight_OI.defined());
  EXPECT_FALSE(reader.Raw("f.weight", {6, 7}).defined());
  EXPECT_FALSE(reader.Raw("ids", {3}).defined());
  EXPECT_FALSE(reader.SplitOutputs("h", 6, 14, 4).weight_OI.defined() && reader.Finish().ok());
  reader.Fail("the config makes no sense");
  reader.Raw("d", {3});
  const absl::Status status = reader.Finish();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), dir_.path().string() +
                                  ": the weights are not those of this network:\n"
                                  "missing: blocks.0.gone.weight [3, 4]\n"
                                  "missing: blocks.0.gone.bias [3]\n"
                                  "misshapen: f.weight is [7, 6], not [6, 7]\n"
                                  "not a float: ids is stored as Long\n"
                                  "cannot be split: h.weight [6, 14] along dim 0 into units of 4\n"
                                  "cannot be split: h.bias [6] along dim 0 into units of 4\n"
                                  "the config makes no sense\n"
                                  "unread: b.conv [4, 2, 3, 3] of model.safetensors\n"
                                  "unread: f.bias [7] of model.safetensors");
}

TEST_F(WeightReaderTest, CopiesShareOneState) {
  WeightReader reader = Open();
  reader.In("x").Fail("said by a copy");
  EXPECT_THAT(std::string(reader.Finish().message()), HasSubstr("said by a copy"));
}

TEST_F(WeightReaderTest, SkipsScopesAndNames) {
  WeightReader reader = Open();
  reader.Skip("f");
  reader.In("h").Skip("");
  reader.Skip("b.co");
  reader.Skip("ids");
  reader.Skip("nothing.like.that");
  EXPECT_THAT(std::string(reader.Finish().message()),
              AllOf(HasSubstr("unread: b.conv"), HasSubstr("unread: d "), Not(HasSubstr("f.")),
                    Not(HasSubstr("h.")), Not(HasSubstr("ids"))));
  reader.Skip("b");
  reader.Skip("d");
  EXPECT_TRUE(reader.Finish().ok()) << reader.Finish();
}

TEST_F(WeightReaderTest, FindsNamesUnderItsScope) {
  const WeightReader reader = Open();
  EXPECT_TRUE(reader.Has("f.weight"));
  EXPECT_TRUE(reader.In("f").Has("weight"));
  EXPECT_FALSE(reader.In("f").Has("f.weight"));
  EXPECT_FALSE(reader.Has("f"));
  EXPECT_EQ(reader.In("f").ShapeOf("weight"), reader.ShapeOf("f.weight"));
  EXPECT_FALSE(reader.ShapeOf("f.weight").empty());
  EXPECT_TRUE(reader.ShapeOf("f").empty());
}

TEST_F(WeightReaderTest, PassesOnWhatIsWrongWithTheFiles) {
  EXPECT_EQ(WeightReader::Open(dir_.path(), {}).status().code(), absl::StatusCode::kNotFound);
  dir_.Write("model.safetensors", "x");
  EXPECT_EQ(WeightReader::Open(dir_.path(), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(WeightReaderTest, ReadsTheBundledShards) {
  auto reader = WeightReader::Open("models/shapes-256/transformer", {});
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE(reader->Has("scale_shift_table"));
  EXPECT_TRUE(reader->Has("transformer_blocks.7.attn2.to_q.weight"));
  reader->Skip("");
  EXPECT_TRUE(reader->Finish().ok());
}

}  // namespace
}  // namespace patchflow

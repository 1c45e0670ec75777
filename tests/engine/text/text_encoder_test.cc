#include "engine/text/text_encoder.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/engine/golden.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// Adds over threads. Gives up after a while, so that a missing rank is a failure and not a hang.
class ThreadSum {
 public:
  explicit ThreadSum(int ranks) : ranks_(ranks) {}

  Tensor Complete(const Tensor& partial) {
    std::unique_lock lock(mutex_);
    sum_ = arrived_ == 0 ? partial.clone() : sum_ + partial;
    const int64_t round = round_;
    if (++arrived_ == ranks_) {
      arrived_ = 0;
      ++round_;
      total_ = sum_;
      changed_.notify_all();
    } else if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return round_ > round; })) {
      throw std::runtime_error("a rank did not come to its sum");
    }
    return total_;
  }
  int64_t rounds() const { return round_; }

 private:
  const int ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  int64_t round_ = 0;
  Tensor sum_;
  Tensor total_;  // Of the last round: nobody ends the next one before everyone has left this one.
};

class RankSum final : public PartialSum {
 public:
  explicit RankSum(ThreadSum& sum) : sum_(sum) {}
  Tensor Complete(Tensor partial) override { return sum_.Complete(partial).clone(); }

 private:
  ThreadSum& sum_;
};

std::unique_ptr<TextEncoder> Load(const fs::path& dir, const ReadOptions& options = {}) {
  auto encoder = LoadTextEncoder(dir, options);
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  return encoder.ok() ? *std::move(encoder) : nullptr;
}

class TextEncoderGoldenTest : public testing::TestWithParam<const char*> {
 protected:
  fs::path dir() const {
    const std::string name = GetParam();
    return name == "bundled" ? fs::path("models/shapes-256/text_encoder")
                             : GoldenDir() / "t5" / name;
  }
  Tensor Golden(const std::string& what) const {
    return golden_.Get(std::string(GetParam()) + "." + what);
  }
  Tensor Encode(const TextEncoder& encoder) const {
    LocalSum local;
    return encoder.Encode(Golden("ids"), Golden("mask"), local);
  }

 private:
  GoldenFile golden_{"t5/outputs.safetensors"};
  c10::InferenceMode inference_;
};

TEST_P(TextEncoderGoldenTest, EqualsTransformersInFloat32) {
  const Tensor found = Encode(*Load(dir()));
  EXPECT_EQ(found.scalar_type(), at::kFloat);
  EXPECT_LT(RelativeDifference(found, Golden("float32")), 1e-5);
}

// Two roundings apart from float32, as transformers is: within 1.5 times its distance.
TEST_P(TextEncoderGoldenTest, IsAsNearToFloat32AsTransformersInHalfPrecision) {
  for (const auto& [dtype, name] :
       {std::pair(at::kBFloat16, "bfloat16"), std::pair(at::kHalf, "float16")}) {
    const Tensor found = Encode(*Load(dir(), {.dtype = dtype}));
    EXPECT_EQ(found.scalar_type(), dtype);
    const double theirs = RelativeDifference(Golden(name), Golden("float32"));
    const double ours = RelativeDifference(found, Golden("float32"));
    EXPECT_LT(ours, 1.5 * theirs) << name;
    EXPECT_LT(RelativeDifference(found, Golden(name)), 0.03) << name;
  }
}

// The order of the sum differs, so equality is to rounding. Seven shards are more than there are
// heads.
TEST_P(TextEncoderGoldenTest, ShardsTogetherEqualTheWhole) {
  const Tensor ids = Golden("ids");
  const Tensor mask = Golden("mask");
  const std::unique_ptr<TextEncoder> whole = Load(dir());
  const Tensor expected = Encode(*whole);
  for (const int count : {2, 3, 7}) {
    ThreadSum sum(count);
    std::vector<Tensor> found(count);
    std::vector<int64_t> bytes(count);
    std::vector<std::thread> ranks;
    for (int index = 0; index < count; ++index) {
      ranks.emplace_back([&, index] {
        const c10::InferenceMode inference;
        at::set_num_threads(1);
        const auto encoder = Load(dir(), {.shard = {index, count}});
        bytes[index] = encoder->parameter_bytes();
        RankSum port(sum);
        found[index] = encoder->Encode(ids, mask, port);
      });
    }
    for (std::thread& rank : ranks) rank.join();
    for (const Tensor& one : found) {
      EXPECT_LT(RelativeDifference(one, expected), 1e-5) << count << " shards";
      EXPECT_TRUE(at::equal(one, found[0]));
    }
    EXPECT_EQ(sum.rounds() % 2, 0);
    for (const int64_t held : bytes) EXPECT_LT(held, whole->parameter_bytes());
  }
}

INSTANTIATE_TEST_SUITE_P(Encoders, TextEncoderGoldenTest,
                         testing::Values("odd", "relu", "silu", "overflow", "bundled"),
                         [](const auto& info) { return std::string(info.param); });

TEST(TextEncoderTest, SumsTwiceABlock) {
  const c10::InferenceMode inference;
  ThreadSum sum(1);
  RankSum port(sum);
  const auto encoder = Load("tests/golden/t5/odd", {.shard = {1, 2}});
  encoder->Encode(at::ones({1, 4}, at::kLong), at::ones({1, 4}, at::kLong), port);
  EXPECT_EQ(sum.rounds(), 2 * 3);
}

TEST(TextEncoderTest, PaddingChangesNothing) {
  const c10::InferenceMode inference;
  LocalSum local;
  const auto encoder = Load("models/shapes-256/text_encoder");
  const Tensor ids = at::tensor({5, 17, 30, 1}, at::kLong).unsqueeze(0);
  const Tensor alone = encoder->Encode(ids, at::ones_like(ids), local);
  for (const int64_t padding : {1, 4, 116}) {
    const Tensor padded_ids = at::constant_pad_nd(ids, {0, padding});
    const Tensor mask = at::constant_pad_nd(at::ones_like(ids), {0, padding});
    const Tensor padded = encoder->Encode(padded_ids, mask, local);
    EXPECT_LT(RelativeDifference(padded.narrow(1, 0, 4), alone), 1e-5);
    EXPECT_TRUE(padded.isfinite().all().item<bool>());
  }
}

TEST(TextEncoderTest, DescribesItself) {
  const auto encoder = Load("models/shapes-256/text_encoder");
  EXPECT_EQ(encoder->width(), 128);
  EXPECT_EQ(encoder->vocabulary(), 256);
  // 4 blocks of 4 x 128 x 128 + 3 x 128 x 256 + 2 x 128; 256 x 128, 32 x 4 and 128 more.
  EXPECT_EQ(encoder->parameter_bytes(), 4 * (4 * (65536 + 98304 + 256) + 32768 + 128 + 128));
}

TEST(TextEncoderTest, KeepsTheLastProductInFloat32UnderFloat16) {
  const auto half = Load("models/shapes-256/text_encoder", {.dtype = at::kHalf});
  const auto whole = Load("models/shapes-256/text_encoder");
  EXPECT_EQ(2 * half->parameter_bytes(), whole->parameter_bytes() + 4 * 4 * 128 * 256);
}

TEST(TextEncoderTest, RefusesIdsBeyondItsVocabulary) {
  LocalSum local;
  const auto encoder = Load("models/shapes-256/text_encoder");
  const Tensor ids = at::full({1, 3}, 256, at::kLong);
  EXPECT_THROW(encoder->Encode(ids, at::ones_like(ids), local), c10::Error);
}

// A copy of the small encoder with one file changed.
class LoadTextEncoderTest : public testing::Test {
 protected:
  LoadTextEncoderTest() {
    fs::copy("tests/golden/t5/odd", dir_.path(), fs::copy_options::recursive);
  }
  std::string Config(const std::string& field, const std::string& value) {
    std::ifstream in("tests/golden/t5/odd/config.json");
    std::string text{std::istreambuf_iterator<char>(in), {}};
    const size_t at = text.find("\"" + field + "\": ");
    EXPECT_NE(at, std::string::npos);
    const size_t begin = text.find(": ", at) + 2;
    text.replace(begin, text.find_first_of(",\n", begin) - begin, value);
    dir_.Write("config.json", text);
    return Error();
  }
  std::string Error(absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const absl::Status status = LoadTextEncoder(dir_.path(), {}).status();
    EXPECT_EQ(status.code(), code) << status;
    return std::string(status.message());
  }

  ScratchDir dir_;
};

TEST_F(LoadTextEncoderTest, ReportsEveryTensorThatDoesNotFit) {
  EXPECT_THAT(
      Config("num_layers", "4"),
      AllOf(HasSubstr("missing: encoder.block.3.layer.0.SelfAttention.q.weight [25, 16]"),
            HasSubstr("missing: encoder.block.3.layer.1.DenseReluDense.wi_1.weight [28, 16]"),
            HasSubstr("missing: encoder.block.3.layer.1.layer_norm.weight [16]")));
  EXPECT_THAT(Config("num_layers", "2"),
              HasSubstr("unread: encoder.block.2.layer.1.DenseReluDense.wo.weight [16, 28]"));
  EXPECT_THAT(Config("num_heads", "4"),
              AllOf(HasSubstr("misshapen: encoder.block.0.layer.0.SelfAttention.q.weight is "
                              "[25, 16], not [20, 16]"),
                    HasSubstr("relative_attention_bias.weight is [32, 5], not [32, 4]")));
  EXPECT_THAT(Config("vocab_size", "41"),
              HasSubstr("misshapen: shared.weight is [40, 16], not [41, 16]"));
}

TEST_F(LoadTextEncoderTest, PassesOnWhatIsWrongWithTheFolder) {
  fs::resize_file(dir_.path() / "model.safetensors", 1000);
  EXPECT_THAT(Error(), HasSubstr("model.safetensors"));
  fs::remove(dir_.path() / "model.safetensors");
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("no weights; looked for"));
  fs::remove(dir_.path() / "config.json");
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("config.json: no such file"));
}

}  // namespace
}  // namespace patchflow

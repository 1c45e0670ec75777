#include "engine/prompt_encoder.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "engine/denoiser.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr int kTokens = 4;

// The length of the text, and padding.
class FakeTokenizer final : public Tokenizer {
 public:
  int64_t vocabulary() const override { return 100; }
  TokenIds Encode(std::string_view text, int max_tokens) const override {
    TokenIds tokens{.ids = std::vector<int64_t>(max_tokens),
                    .mask = std::vector<int64_t>(max_tokens)};
    tokens.ids[0] = static_cast<int64_t>(text.size());
    tokens.mask[0] = 1;
    return tokens;
  }
};

// What all encoders of a test did.
struct Log {
  std::mutex mutex;
  std::vector<int64_t> encoded;  // Lengths of texts, when they are done.
  std::vector<int64_t> begun;
  std::vector<int64_t> Encoded() {
    const std::lock_guard lock(mutex);
    return encoded;
  }
  std::vector<int64_t> Begun() {
    const std::lock_guard lock(mutex);
    return begun;
  }
};

// Takes its time for each of its blocks.
class FakeTextEncoder final : public TextEncoder {
 public:
  FakeTextEncoder(Log& log, int blocks, absl::Duration block)
      : log_(log), blocks_(blocks), block_(block) {}
  int64_t width() const override { return 2; }
  int64_t vocabulary() const override { return 100; }
  int64_t parameter_bytes() const override { return 0; }
  Tensor Encode(const Tensor& ids_BL, const Tensor& /*mask_BL*/,
                PartialSum& tensor_axis) const override {
    const auto length = ids_BL[0][0].item<int64_t>();
    {
      const std::lock_guard lock(log_.mutex);
      log_.begun.push_back(length);
    }
    Tensor text_BLD = ids_BL.unsqueeze(2).expand({1, kTokens, 2}).to(at::kFloat);
    for (int i = 0; i < blocks_; ++i) {
      absl::SleepFor(block_);
      text_BLD = tensor_axis.Complete(text_BLD);
    }
    const std::lock_guard lock(log_.mutex);
    log_.encoded.push_back(length);
    return text_BLD;
  }

 private:
  Log& log_;
  const int blocks_;
  const absl::Duration block_;
};

class PromptEncoderTest : public ::testing::Test {
 protected:
  std::unique_ptr<PromptEncoder> Make(std::shared_ptr<TextHints> hints, int blocks = 1,
                                      absl::Duration block = absl::ZeroDuration(),
                                      int batch_size = 1) {
    return std::make_unique<PromptEncoder>(std::make_unique<FakeTokenizer>(),
                                           std::make_unique<FakeTextEncoder>(log_, blocks, block),
                                           sum_, kTokens, at::kCPU, std::move(hints), batch_size);
  }
  static bool Eventually(const std::function<bool()>& condition) {
    const absl::Time until = absl::Now() + absl::Seconds(10);
    while (!condition() && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
    return condition();
  }

  Log log_;
  LocalSum sum_;
  std::shared_ptr<TextHints> hints_ = std::make_shared<TextHints>();
};

TEST_F(PromptEncoderTest, EveryTextOfABatchIsEncodedOnceAndItsFirstFillsItUp) {
  const std::string negative;
  std::vector<std::string> texts;
  for (size_t length = 1; length <= 9; ++length) texts.emplace_back(length, 'a');
  std::vector<PromptEncoder::Texts> images;
  for (const std::string& text : texts) images.push_back({text, negative});
  const Prompt prompt = Make(nullptr)->Encode(images, 12, /*positive_only=*/false);
  EXPECT_THAT(log_.Encoded(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_EQ(prompt.images, 12);
  ASSERT_EQ(prompt.text_BLD.size(0), 24);
  ASSERT_EQ(prompt.mask_BL.size(0), 24);
  for (int64_t row = 0; row < 12; ++row) {
    EXPECT_EQ(prompt.text_BLD[row][0][0].item<float>(), 0);
    EXPECT_EQ(prompt.text_BLD[12 + row][0][0].item<int64_t>(), row < 9 ? row + 1 : 1);
  }
}

TEST_F(PromptEncoderTest, KeepsTheTextsOfTwoBatches) {
  std::vector<std::string> texts;
  for (size_t length = 0; length < 64; ++length) texts.emplace_back(length, 'a');
  const auto encoder = Make(nullptr, 1, absl::ZeroDuration(), 16);
  for (int turn = 0; turn < 2; ++turn) {
    for (const size_t batch : {0, 32}) {
      std::vector<PromptEncoder::Texts> images;
      for (size_t i = 0; i < 32; i += 2) {
        images.push_back({texts[batch + i], texts[batch + i + 1]});
      }
      encoder->Encode(images, 16, /*positive_only=*/false);
    }
    EXPECT_EQ(log_.Encoded().size(), 64U) << turn;
  }
}

TEST_F(PromptEncoderTest, AHintedTextIsThereWhenItIsAskedFor) {
  const auto encoder = Make(hints_, 1, absl::Milliseconds(300));
  hints_->Offer({"a star", ""});
  ASSERT_TRUE(Eventually([&] { return log_.Encoded().size() == 2; }));
  const absl::Time begin = absl::Now();
  const Prompt prompt = encoder->Encode({{"a star", ""}}, 1, /*positive_only=*/false);
  EXPECT_LT(absl::Now() - begin, absl::Milliseconds(200)) << "nothing was encoded";
  EXPECT_THAT(log_.Encoded(), UnorderedElementsAre(6, 0));
  const auto without = Make(nullptr)->Encode({{"a star", ""}}, 1, false);
  EXPECT_TRUE(at::equal(prompt.text_BLD, without.text_BLD)) << "and it is the same";
  EXPECT_TRUE(at::equal(prompt.mask_BL, without.mask_BL));
}

TEST_F(PromptEncoderTest, ATextThatIsBeingEncodedIsNotEncodedTwice) {
  const auto encoder = Make(hints_, 1, absl::Milliseconds(100));
  hints_->Offer({"a star"});
  ASSERT_TRUE(Eventually([&] { return log_.Begun().size() == 1; }));
  encoder->Encode({{"a star", ""}}, 1, /*positive_only=*/true);
  EXPECT_THAT(log_.Encoded(), ElementsAre(6));
}

TEST_F(PromptEncoderTest, WhatIsKeptIsNotEncodedForAHint) {
  const auto encoder = Make(hints_);
  encoder->Encode({{"a star", ""}}, 1, /*positive_only=*/false);
  hints_->Offer({"a star", "", "a circle"});
  ASSERT_TRUE(Eventually([&] { return log_.Encoded().size() == 3; }));
  EXPECT_THAT(log_.Encoded(), ElementsAre(0, 6, 8));
}

TEST_F(PromptEncoderTest, AnythingElseIsEncodedBesideAHint) {
  const auto encoder = Make(hints_, 1, absl::Milliseconds(200));
  hints_->Offer({"a star"});
  ASSERT_TRUE(Eventually([&] { return log_.Begun().size() == 1; }));
  encoder->Encode({{"red", ""}}, 1, /*positive_only=*/true);
  EXPECT_THAT(log_.Begun(), ElementsAre(6, 3));
}

TEST_F(PromptEncoderTest, ItsEndWaitsForOneBlockOfTheTextEncoderAtMost) {
  auto encoder = Make(hints_, 1000, absl::Milliseconds(10));
  hints_->Offer({"a star", "a circle"});
  ASSERT_TRUE(Eventually([&] { return log_.Begun().size() == 1; }));
  const absl::Time begin = absl::Now();
  encoder = nullptr;
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2)) << "all blocks take 10 s";
  EXPECT_TRUE(log_.Encoded().empty());
}

}  // namespace
}  // namespace patchflow

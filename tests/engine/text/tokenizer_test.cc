#include "engine/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unicode/utf8.h>

#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

const fs::path kBundled = "models/shapes-256/tokenizer";
constexpr int kEos = 1;

std::string Bytes(const fs::path& file) {
  std::ostringstream out;
  out << std::ifstream(file, std::ios::binary).rdbuf();
  return out.str();
}

// A tokenizer's folder.
class Folder {
 public:
  Folder(const json& files, const fs::path& model) {
    for (const auto& [name, content] : files.items()) dir_.Write(name, content.dump());
    dir_.Write("spiece.model", Bytes(model));
  }
  const ScratchDir& dir() const { return dir_; }
  std::unique_ptr<Tokenizer> Load() const {
    auto tokenizer = LoadTokenizer(dir_.path());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
  }
  std::string Error(absl::StatusCode code = absl::StatusCode::kInvalidArgument) const {
    const absl::Status status = LoadTokenizer(dir_.path()).status();
    EXPECT_EQ(status.code(), code) << status;
    return std::string(status.message());
  }

 private:
  ScratchDir dir_;
};

std::vector<int64_t> Real(const TokenIds& tokens) {
  int64_t real = 0;
  for (const int64_t one : tokens.mask) real += one;
  EXPECT_EQ(tokens.ids.size(), tokens.mask.size());
  for (size_t i = 0; i < tokens.mask.size(); ++i) {
    EXPECT_EQ(tokens.mask[i], static_cast<int64_t>(i) < real ? 1 : 0);
  }
  return {tokens.ids.begin(), tokens.ids.begin() + real};
}

// The generator of tests/golden/tokenizer.py.
class Generator {
 public:
  Generator(uint64_t state, std::vector<std::string> fragments)
      : state_(state), fragments_(std::move(fragments)) {}

  uint64_t Below(uint64_t n) {
    state_ = state_ * 6364136223846793005 + 1442695040888963407;
    return (state_ >> 32) % n;
  }

  std::string Text() {
    std::string text;
    for (uint64_t parts = 1 + Below(12); parts > 0; --parts) {
      if (Below(8) != 0) {
        text += fragments_[Below(fragments_.size())];
        continue;
      }
      const uint64_t code = 1 + Below(0x10FFFF - 0x800);
      char bytes[U8_MAX_LENGTH];
      int32_t length = 0;
      U8_APPEND_UNSAFE(bytes, length, static_cast<UChar32>(code >= 0xD800 ? code + 0x800 : code));
      text.append(bytes, length);
    }
    return text;
  }

 private:
  uint64_t state_;
  std::vector<std::string> fragments_;
};

std::string Checksum(std::vector<int64_t> ids) {
  uint32_t value = 0x811C9DC5;
  for (const int64_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ ((static_cast<uint64_t>(id) >> shift) & 0xFF)) * 0x01000193;
    }
  }
  std::ostringstream out;
  out << std::hex << std::setw(4) << std::setfill('0') << ((value >> 16) ^ (value & 0xFFFF));
  return out.str();
}

class TokenizerGoldenTest : public testing::TestWithParam<int> {
 protected:
  static const json& Golden() {
    static const json& golden =
        *new json(json::parse(std::ifstream("tests/golden/tokenizer/cases.json")));
    return golden;
  }
  const json& variant_ = Golden()["variants"][GetParam()];
  Folder folder_{variant_["files"], variant_["model"].get<std::string>()};
  std::unique_ptr<Tokenizer> tokenizer_ = folder_.Load();
};

TEST_P(TokenizerGoldenTest, EqualsTransformersOnChosenTexts) {
  const json& texts = Golden()["texts"];
  const int limit = Golden()["text_limit"];
  ASSERT_GT(texts.size(), 100);
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string text = texts[i];
    const TokenIds found = tokenizer_->Encode(text, limit);
    ASSERT_THAT(found.ids, SizeIs(limit));
    EXPECT_EQ(Real(found), variant_["ids"][i].get<std::vector<int64_t>>())
        << variant_["name"] << ": '" << text.substr(0, 200) << "'";
  }
}

TEST_P(TokenizerGoldenTest, EqualsTransformersOnThousandsOfDrawnTexts) {
  const std::string expected = variant_["drawn"];
  const std::vector<int> limits = Golden()["limits"];
  Generator generator(Golden()["seed"], Golden()["fragments"]);
  ASSERT_GE(expected.size(), 4 * 2000);
  for (size_t i = 0; i < expected.size() / 4; ++i) {
    const std::string text = generator.Text();
    const TokenIds found = tokenizer_->Encode(text, limits[generator.Below(limits.size())]);
    std::vector<int64_t> summed = found.ids;
    summed.push_back(static_cast<int64_t>(Real(found).size()));
    ASSERT_EQ(Checksum(summed), expected.substr(4 * i, 4))
        << variant_["name"] << ", text " << i << ": " << json(text).dump(-1, ' ', true);
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, TokenizerGoldenTest, testing::Range(0, 9));

TEST(TokenizerTest, GivesTheEmptyPromptOneToken) {
  const Folder folder(json::object(), kBundled / "spiece.model");
  const TokenIds tokens = folder.Load()->Encode(" \n", 5);
  EXPECT_THAT(tokens.ids, ElementsAre(kEos, 0, 0, 0, 0));
  EXPECT_THAT(tokens.mask, ElementsAre(1, 0, 0, 0, 0));
}

TEST(TokenizerTest, TruncationKeepsTheEnd) {
  auto tokenizer = LoadTokenizer(kBundled);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const TokenIds tokens = (*tokenizer)->Encode("a red circle and a blue square", 4);
  EXPECT_THAT(tokens.mask, ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(tokens.ids.back(), kEos);
  EXPECT_THAT((*tokenizer)->Encode("a red circle", 1).ids, ElementsAre(kEos));
}

TEST(TokenizerTest, TakesLongTexts) {
  auto tokenizer = LoadTokenizer(kBundled);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const std::string part : {"red circle ", "x", "\u65e5", "\xf0\x9f\x99\x82 ", "</s>", "<"}) {
    std::string text;
    while (text.size() < (1 << 16)) text += part;
    EXPECT_THAT(Real((*tokenizer)->Encode(text, 120)), testing::Not(testing::IsEmpty()));
  }
}

TEST(TokenizerTest, KnowsItsVocabulary) {
  const auto size_of = [](const json& files) {
    return Folder(files, "tests/golden/tokenizer/spiece.model").Load()->vocabulary();
  };
  EXPECT_EQ(size_of({{"tokenizer_config.json", {{"extra_ids", 0}}}}), 205);
  EXPECT_EQ(size_of(json::object()), 305);
}

TEST(TokenizerTest, ServesThreadsAtOnce) {
  auto tokenizer = LoadTokenizer(kBundled);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = "A Red Circle </s> <extra_id_0> \u65e5\u672c";
  const std::vector<int64_t> expected = (*tokenizer)->Encode(text, 20).ids;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) EXPECT_EQ((*tokenizer)->Encode(text, 20).ids, expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(LoadTokenizerTest, NamesTheAbsentModel) {
  const ScratchDir dir;
  const absl::Status status = LoadTokenizer(dir.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("spiece.model: no such file"));
}

TEST(LoadTokenizerTest, RefusesEveryTruncationOfAModel) {
  const std::string whole = Bytes("tests/golden/tokenizer/spiece.model");
  const Folder folder(json::object(), "tests/golden/tokenizer/spiece.model");
  // The normalizer's fields come last; without them the file is not whole.
  for (size_t length = 0; length < whole.size(); length += 7) {
    folder.dir().Write("spiece.model", whole.substr(0, length));
    EXPECT_THAT(folder.Error(), HasSubstr("spiece.model: ")) << length;
  }
  folder.dir().Write("spiece.model", "not a model at all");
  EXPECT_THAT(folder.Error(), HasSubstr("18 bytes are no whole SentencePiece model"));
}

TEST(LoadTokenizerTest, ReportsWrongConfigsWithFileAndField) {
  const auto error = [](const std::string& file, const json& content) {
    return Folder({{file, content}}, kBundled / "spiece.model").Error();
  };
  const std::string config = "tokenizer_config.json";
  EXPECT_THAT(error(config, {{"tokenizer_class", "CLIPTokenizer"}}),
              AllOf(HasSubstr(config), HasSubstr("tokenizer_class is \"CLIPTokenizer\"")));
  EXPECT_THAT(error(config, {{"legacy", "no"}, {"padding_side", "left"}, {"extra_ids", -1}}),
              AllOf(HasSubstr("legacy is \"no\""), HasSubstr("padding_side is \"left\""),
                    HasSubstr("extra_ids is -1")));
  EXPECT_THAT(error(config, {{"extra_ids", 5}, {"additional_special_tokens", {"<extra_id_0>"}}}),
              HasSubstr("extra_ids is 5, but 1 additional_special_tokens are <extra_id_N>"));
  EXPECT_THAT(error(config, {{"added_tokens_decoder", {{"x", {{"content", "a"}}}}}}),
              HasSubstr("added_tokens_decoder.x is"));
  EXPECT_THAT(error(config, {{"added_tokens_decoder", 3}}),
              HasSubstr("added_tokens_decoder is 3, not an object"));
  EXPECT_THAT(error(config, {{"eos_token", 1}}), HasSubstr("eos_token is 1, not a token"));
  EXPECT_THAT(error(config, {{"additional_special_tokens", "x"}}),
              HasSubstr("additional_special_tokens is \"x\", not a list of tokens"));
  EXPECT_THAT(error("special_tokens_map.json", {{"pad_token", json::array()}}),
              AllOf(HasSubstr("special_tokens_map.json"), HasSubstr("pad_token is []")));
  EXPECT_THAT(error("added_tokens.json", {{"<x>", -3}}),
              AllOf(HasSubstr("added_tokens.json"), HasSubstr("<x> is -3, not an id")));
  EXPECT_THAT(error("added_tokens.json", json::array({1})), HasSubstr("added_tokens.json"));
  EXPECT_THAT(error("tokenizer.json", {{"added_tokens", {{{"id", 3}}}}}),
              HasSubstr("tokenizer.json: added_tokens holds"));
}

}  // namespace
}  // namespace patchflow

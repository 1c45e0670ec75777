#include "engine/models/pixart.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "engine/models/pixart_config.h"
#include "engine/weights/json_file.h"
#include "tests/engine/golden.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

std::filesystem::path Tiny(const std::string& variant) { return GoldenDir() / "pixart" / variant; }

std::unique_ptr<Transformer> LoadOrDie(const std::filesystem::path& dir,
                                       const TransformerOptions& options = {}) {
  auto transformer = LoadPixArt(dir, options);
  EXPECT_TRUE(transformer.ok()) << transformer.status();
  return *std::move(transformer);
}

// A variant of tests/golden/pixart.py: what went in and what diffusers made of it.
struct Golden {
  explicit Golden(const std::string& variant)
      : file("pixart/expected.safetensors"), name(variant), latents(Get("x")) {
    grid = {latents.size(2) / 2, latents.size(3) / 2};
    prompt = {Get("text"), Get("mask"), latents.size(0)};  // Other latents in every row.
    timesteps = {Get("timestep").item<double>()};
  }
  Tensor Get(const std::string& what) const { return file.Get(name + "." + what); }

  GoldenFile file;
  std::string name;
  Tensor latents;
  TokenGrid grid;
  Prompt prompt;
  std::vector<double> timesteps;
};

Tensor ToTokens(const Tensor& latents) {
  const auto s = latents.sizes();
  return latents.reshape({s[0], s[1], s[2] / 2, 2, s[3] / 2, 2})
      .permute({0, 2, 4, 3, 5, 1})
      .reshape({s[0], s[2] * s[3] / 4, 4 * s[1]});
}

// One device's forward passes over one request.
class Passes {
 public:
  Passes(const Transformer& transformer, const Golden& golden, const Tensor& token_order = {})
      : transformer_(transformer),
        conditioning_(
            transformer.Prepare(golden.prompt, golden.grid, golden.timesteps, token_order)),
        span_{0, golden.grid.size()} {}

  Tensor Embed(const Tensor& x) { return transformer_.Embed(x, Context()); }
  Tensor Blocks(BlockRange range, const Tensor& h) {
    return transformer_.RunBlocks(range, h, Context());
  }
  Tensor Project(const Tensor& h) { return transformer_.Project(h, Context()); }
  Tensor Forward(const Tensor& x) {
    return Project(Blocks({0, transformer_.config().num_blocks}, Embed(x)));
  }

  void Use(TokenSpan span) { span_ = span; }
  void Use(SelfAttention& attention) { attention_ = &attention; }
  void Use(PartialSum& sum) { sum_ = &sum; }
  const Conditioning& conditioning() const { return *conditioning_; }

 private:
  StepContext Context() {
    return {*conditioning_, at::zeros({1}, at::kLong), span_, *attention_, *sum_};
  }

  const Transformer& transformer_;
  std::unique_ptr<Conditioning> conditioning_;
  TokenSpan span_;
  LocalAttention local_attention_;
  LocalSum local_sum_;
  SelfAttention* attention_ = &local_attention_;
  PartialSum* sum_ = &local_sum_;
};

class PixArtTest : public testing::Test {
 private:
  c10::InferenceMode inference_;
};

class PixArtVariant : public PixArtTest, public testing::WithParamInterface<const char*> {};

TEST_P(PixArtVariant, EqualsDiffusers) {
  const Golden golden(GetParam());
  const auto transformer = LoadOrDie(Tiny(GetParam()));
  const Tensor out = Passes(*transformer, golden).Forward(ToTokens(golden.latents));
  EXPECT_LT(RelativeDifference(out, ToTokens(golden.Get("out"))), 1e-5);
}

TEST_P(PixArtVariant, EmbedsAndRunsOneBlockAsDiffusersDoes) {
  const Golden golden(GetParam());
  const auto transformer = LoadOrDie(Tiny(GetParam()));
  Passes run(*transformer, golden);
  EXPECT_LT(RelativeDifference(run.Embed(ToTokens(golden.latents)), golden.Get("block_in")), 2e-6);
  EXPECT_LT(RelativeDifference(run.Blocks({0, 1}, golden.Get("block_in")), golden.Get("block_out")),
            5e-6);
}

// Up to the first text, the branches of an image are one.
TEST_F(PixArtTest, BranchesShareWhatComesBeforeTheText) {
  struct CountedRows final : SelfAttention {
    Tensor Attend(const AttentionInput& in) override {
      rows.push_back(in.q_BSHD.size(0));
      return LocalAttention().Attend(in);
    }
    std::vector<int64_t> rows;
  } counted;
  Golden golden("alpha");
  const auto transformer = LoadOrDie(Tiny("alpha"));
  const Tensor x_1SC = ToTokens(golden.latents).narrow(0, 0, 1);
  const Prompt both = golden.prompt;
  const auto of_branch = [&](int64_t b) {
    golden.prompt = {both.text_BLD.narrow(0, b, 1), both.mask_BL.narrow(0, b, 1), 1};
    return Passes(*transformer, golden).Forward(x_1SC);
  };
  const Tensor apart = at::cat({of_branch(0), of_branch(1)});
  golden.prompt = {both.text_BLD, both.mask_BL, 1};
  Passes together(*transformer, golden);
  together.Use(counted);
  EXPECT_LT(RelativeDifference(together.Forward(x_1SC.repeat({2, 1, 1})), apart), 1e-6);
  std::vector<int64_t> expected(transformer->config().num_blocks, 2);
  expected[0] = 1;
  EXPECT_EQ(counted.rows, expected);
}

INSTANTIATE_TEST_SUITE_P(Tiny, PixArtVariant,
                         testing::Values("alpha", "sigma", "conditions", "odd_blocks"));

std::filesystem::path Copied(const std::string& variant, const nlohmann::json& config) {
  static int count = 0;
  const auto dir = std::filesystem::path(testing::TempDir()) /
                   ("pixart_test_" + std::to_string(getpid())) / std::to_string(count++);
  std::filesystem::create_directories(dir);
  std::filesystem::copy(Tiny(variant), dir, std::filesystem::copy_options::recursive);
  std::ofstream(dir / "config.json") << config.dump();
  return dir;
}

nlohmann::json ConfigOf(const std::string& variant) {
  return *ReadJsonFile(Tiny(variant) / "config.json");
}

TEST_F(PixArtTest, TheClassOfTheFirstCheckpointsIsTheSameNetwork) {
  const Golden golden("alpha");
  const auto dir = Copied("alpha", *ReadJsonFile(GoldenDir() / "pixart/old_class.json"));
  const auto transformer = LoadOrDie(dir);
  const Tensor out = Passes(*transformer, golden).Forward(ToTokens(golden.latents));
  EXPECT_LT(RelativeDifference(out, ToTokens(golden.Get("out"))), 1e-5);
}

TEST_F(PixArtTest, StagesComposeToTheWholeBitExactly) {
  const Golden golden("odd_blocks");
  const auto whole = LoadOrDie(Tiny("odd_blocks"));
  const auto first = LoadOrDie(Tiny("odd_blocks"), {.blocks = {0, 2}});
  const auto second = LoadOrDie(Tiny("odd_blocks"), {.blocks = {2, -1}});
  EXPECT_EQ(second->blocks().end, 5);
  EXPECT_LT(second->parameter_bytes(), whole->parameter_bytes());
  Passes on_first(*first, golden);
  Passes on_second(*second, golden);
  const Tensor x = ToTokens(golden.latents);
  Tensor h = on_first.Blocks({0, 2}, on_first.Embed(x));
  h = on_second.Blocks({3, 5}, on_second.Blocks({2, 3}, h));
  EXPECT_TRUE(at::equal(on_second.Project(h), Passes(*whole, golden).Forward(x)));
  EXPECT_THROW(on_second.Blocks({1, 3}, h), c10::Error);
}

TEST_F(PixArtTest, StagesHoldExactlyTheirShareOfTheBlocks) {
  const auto bytes = [](BlockRange range) {
    return LoadOrDie(Tiny("odd_blocks"), {.blocks = range})->parameter_bytes();
  };
  const int64_t none = bytes({5, 5});
  const int64_t a_block = bytes({0, 1}) - none;
  EXPECT_GT(a_block, 0);
  EXPECT_EQ(bytes({1, 4}), none + 3 * a_block);
  EXPECT_EQ(bytes({0, -1}), none + 5 * a_block);
}

TEST_F(PixArtTest, LeavesTheCallersActivationsAlone) {
  const Golden golden("alpha");
  const auto transformer = LoadOrDie(Tiny("alpha"));
  Passes run(*transformer, golden);
  const Tensor h = golden.Get("block_in");
  const Tensor before = h.clone();
  run.Blocks({0, 2}, h);
  run.Project(h);
  EXPECT_TRUE(at::equal(h, before));
}

TEST_F(PixArtTest, OrderOfTokensDoesNotMatter) {
  const Golden golden("sigma");
  const auto transformer = LoadOrDie(Tiny("sigma"));
  at::manual_seed(3);
  const Tensor order = at::randperm(golden.grid.size());
  const Tensor x = ToTokens(golden.latents);
  const Tensor permuted = Passes(*transformer, golden, order).Forward(x.index_select(1, order));
  const Tensor raster = Passes(*transformer, golden).Forward(x);
  EXPECT_LT(RelativeDifference(permuted, raster.index_select(1, order)), 5e-6);
}

void InThreads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      const c10::InferenceMode inference;
      try {
        body(i);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "thread " << i << ": " << error.what();
        throw;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

// Threads that put a tensor each where the others see it.
class Board {
 public:
  explicit Board(int count) : slots_(count), barrier_(count) {}
  std::vector<Tensor> Exchange(int rank, const Tensor& mine) {
    slots_[rank] = mine;
    barrier_.arrive_and_wait();
    std::vector<Tensor> all = slots_;
    barrier_.arrive_and_wait();
    return all;
  }

 private:
  std::vector<Tensor> slots_;
  std::barrier<> barrier_;
};

class BoardSum final : public PartialSum {
 public:
  BoardSum(Board& board, int rank) : board_(board), rank_(rank) {}
  Tensor Complete(Tensor partial) override {
    return at::stack(board_.Exchange(rank_, partial)).sum(0);
  }

 private:
  Board& board_;
  int rank_;
};

class BoardAttention final : public SelfAttention {
 public:
  BoardAttention(Board& board, int rank) : board_(board), rank_(rank) {}
  Tensor Attend(const AttentionInput& in) override {
    const Tensor k = at::cat(board_.Exchange(rank_, in.k_BSHD), 1);
    const Tensor v = at::cat(board_.Exchange(rank_, in.v_BSHD), 1);
    return local_.Attend({in.block, in.span, in.q_BSHD, k, v});
  }

 private:
  Board& board_;
  int rank_;
  LocalAttention local_;
};

class PixArtShards : public PixArtTest, public testing::WithParamInterface<int> {};

// Three heads: two shards are uneven, and of five two have none.
TEST_P(PixArtShards, SumToTheWhole) {
  const int count = GetParam();
  const Golden golden("conditions");
  const Tensor x = ToTokens(golden.latents);
  const auto whole = LoadOrDie(Tiny("conditions"));
  const Tensor expected = Passes(*whole, golden).Forward(x);
  Board board(count);
  std::vector<Tensor> found(count);
  std::vector<int64_t> bytes(count);
  InThreads(count, [&](int rank) {
    const auto shard = LoadOrDie(Tiny("conditions"), {.read = {.shard = {rank, count}}});
    BoardSum sum(board, rank);
    Passes run(*shard, golden);
    run.Use(sum);
    found[rank] = run.Forward(x);
    bytes[rank] = shard->parameter_bytes();
  });
  for (int rank = 0; rank < count; ++rank) {
    // Sums over heads and hidden features round in another order.
    EXPECT_LT(RelativeDifference(found[rank], expected), 1e-5);
    EXPECT_LT(bytes[rank], whole->parameter_bytes());
  }
}

INSTANTIATE_TEST_SUITE_P(Counts, PixArtShards, testing::Values(2, 3, 5));

TEST_F(PixArtTest, SpansComposeToTheWholeImage) {
  const Golden golden("sigma");
  const auto transformer = LoadOrDie(Tiny("sigma"));
  const Tensor x = ToTokens(golden.latents);
  const Tensor expected = Passes(*transformer, golden).Forward(x);
  const std::vector<TokenSpan> spans = {{0, 5}, {5, 16}, {16, 24}};
  ASSERT_EQ(golden.grid.size(), spans.back().end);
  Board board(3);
  std::vector<Tensor> found(3);
  InThreads(3, [&](int rank) {
    BoardAttention attention(board, rank);
    Passes run(*transformer, golden);
    run.Use(attention);
    run.Use(spans[rank]);
    found[rank] = run.Forward(x.narrow(1, spans[rank].begin, spans[rank].size()));
  });
  EXPECT_LT(RelativeDifference(at::cat(found, 1), expected), 5e-6);
}

TEST_F(PixArtTest, EveryStepTakesItsOwnRow) {
  const Golden golden("alpha");
  const auto transformer = LoadOrDie(Tiny("alpha"));
  const Tensor x = ToTokens(golden.latents);
  LocalAttention attention;
  LocalSum sum;
  const auto forward = [&](const std::vector<double>& timesteps, int64_t step) {
    const auto conditioning = transformer->Prepare(golden.prompt, golden.grid, timesteps, {});
    const StepContext context{
        *conditioning, at::full({1}, step, at::kLong), {0, golden.grid.size()}, attention, sum};
    return transformer->Project(
        transformer->RunBlocks({0, 2}, transformer->Embed(x, context), context), context);
  };
  const Tensor last = forward({999, 500, golden.timesteps[0]}, 2);
  EXPECT_LT(RelativeDifference(last, ToTokens(golden.Get("out"))), 1e-5);
  EXPECT_GT(RelativeDifference(forward({999, 500, 1}, 1), last), 1e-3);
}

TEST_F(PixArtTest, ConditioningsOfAFewStepsHaveOneShapeAndCanBeCopied) {
  Golden golden("alpha");
  golden.prompt.images = 1;
  const auto transformer = LoadOrDie(Tiny("alpha"));
  const auto two = transformer->Prepare(golden.prompt, golden.grid, {10, 0}, {});
  const auto many = transformer->Prepare(golden.prompt, golden.grid, std::vector<double>(64), {});
  const auto copy = two->Clone();
  ASSERT_EQ(two->tensors().size(), 4 + 2);
  for (size_t i = 0; i < two->tensors().size(); ++i) {
    EXPECT_EQ(two->tensors()[i].sizes(), many->tensors()[i].sizes());
    EXPECT_TRUE(at::equal(two->tensors()[i], copy->tensors()[i]));
    EXPECT_NE(two->tensors()[i].data_ptr(), copy->tensors()[i].data_ptr());
  }
}

TEST_F(PixArtTest, LeavesOutOnlyThePaddingThatNoRowLooksAt) {
  Golden golden("sigma");  // Of 11 tokens its rows look at 1 and 9.
  golden.prompt.images = 1;
  const auto transformer = LoadOrDie(Tiny("sigma"));
  const auto text_tokens = [&] {
    return transformer->Prepare(golden.prompt, golden.grid, {0}, {})->tensors().back().size(1);
  };
  EXPECT_EQ(text_tokens(), 9);
  golden.prompt.mask_BL.select(0, 0).zero_();  // Looks at all alike.
  EXPECT_EQ(text_tokens(), 11);
}

TEST_F(PixArtTest, RefusesConfigsThatItCannotBeByNameOfTheField) {
  const std::vector<std::pair<std::string, nlohmann::json>> refused = {
      {"norm_type", "ada_norm_zero"}, {"norm_elementwise_affine", true},
      {"activation_fn", "geglu"},     {"attention_type", "gated"},
      {"upcast_attention", true},     {"num_vector_embeds", 16},
      {"only_cross_attention", true}, {"double_self_attention", true},
      {"cross_attention_dim", 48},    {"out_channels", 5},
      {"caption_channels", nullptr},  {"num_layers", 0},
      {"attention_head_dim", 7},      {"sample_size", 1},
      {"interpolation_scale", 0},     {"norm_eps", -1},
      {"patch_size", "two"},
  };
  for (const auto& [field, value] : refused) {
    nlohmann::json config = ConfigOf("alpha");
    config[field] = value;
    const auto status = LoadPixArt(Copied("alpha", config), {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
    EXPECT_THAT(std::string(status.message()), HasSubstr("config.json"));
  }
}

TEST_F(PixArtTest, ReportsEveryTensorThatTheConfigDoesNotFit) {
  nlohmann::json config = ConfigOf("alpha");
  config["num_layers"] = 1;
  config["caption_channels"] = 21;
  config["use_additional_conditions"] = true;
  const auto status = LoadPixArt(Copied("alpha", config), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("misshapen: caption_projection.linear_1.weight"));
  EXPECT_THAT(message, HasSubstr("missing: adaln_single.emb.resolution_embedder.linear_1.weight"));
  EXPECT_THAT(message, HasSubstr("unread: transformer_blocks.1.attn1.to_q.weight"));
}

// Before a weight is read.
TEST_F(PixArtTest, RefusesFloat8OnCpus) {
  const auto status = LoadPixArt(Tiny("alpha"), {.read = {.dtype = at::kFloat8_e4m3fn}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "float8: CPUs compute in float32 alone");
}

TEST_F(PixArtTest, RefusesBlocksThatItDoesNotHave) {
  for (BlockRange range : {BlockRange{0, 3}, BlockRange{-1, 2}, BlockRange{2, 1}}) {
    EXPECT_THAT(std::string(LoadPixArt(Tiny("alpha"), {.blocks = range}).status().message()),
                HasSubstr("of a transformer with 2"));
  }
}

TEST_F(PixArtTest, ThePipelineDecidesOnTheLengthOfTheText) {
  const auto dir = Copied("alpha", ConfigOf("alpha"));
  EXPECT_EQ(ReadPixArtConfig(dir)->common.max_text_tokens, 120);
  const auto index = dir.parent_path() / "model_index.json";
  std::ofstream(index) << R"({"_class_name": "PixArtSigmaPipeline"})";
  EXPECT_EQ(ReadPixArtConfig(dir)->common.max_text_tokens, 300);
  EXPECT_EQ(ReadPixArtConfig(dir / "")->common.max_text_tokens, 300);
  std::ofstream(index) << R"({"_class_name": "FluxPipeline"})";
  EXPECT_THAT(std::string(ReadPixArtConfig(dir).status().message()), HasSubstr("FluxPipeline"));
  std::filesystem::remove(index);
}

TEST_F(PixArtTest, ReadsTheBundledModel) {
  const auto config = ReadPixArtConfig("models/shapes-256/transformer");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->common.default_size_px, 256);
  EXPECT_EQ(config->common.max_text_tokens, 120);
  EXPECT_FALSE(config->size_conditions);
  const auto transformer = LoadOrDie("models/shapes-256/transformer");
  EXPECT_EQ(transformer->config().width(), 224);
}

}  // namespace
}  // namespace patchflow

#include "parallel/split_queries.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "tests/engine/golden.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

constexpr int64_t kHead = 16;
const WideHeadOptions kOptions{.workspace_bytes = int64_t{8} << 20, .tile_done = {}};

// Softmax written out, in float64.
Tensor Expected(const Tensor& q_BSHD, const Tensor& k_BSHD, const Tensor& v_BSHD) {
  const auto matrix = [](const Tensor& x) { return x[0].select(1, 0).to(at::kDouble); };
  const Tensor scores = at::matmul(matrix(q_BSHD), matrix(k_BSHD).t()) / std::sqrt(1.0 * kHead);
  return at::matmul(at::softmax(scores, 1), matrix(v_BSHD)).view(q_BSHD.sizes()).to(at::kFloat);
}

void ExpectWhole(const std::vector<TokenSpan>& spans, LocalTiming timing) {
  const int64_t tokens = spans.back().end;
  at::manual_seed(6);
  const Tensor q = at::randn({1, tokens, 1, kHead});
  const Tensor k = at::randn({1, tokens, 1, kHead});
  const Tensor v = at::randn({1, tokens, 1, kHead});
  const Tensor expected = Expected(q, k, v);
  RunRanks(static_cast<int>(spans.size()),
           [&](const Rank& rank) {
             const auto all = rank.world.Split(0, "all");
             SplitQueries attention(*all, spans, kOptions);
             const TokenSpan own = spans[rank.index()];
             const auto held = [&](const Tensor& x) {
               return x.narrow(1, own.begin, own.size()).to(rank.device);
             };
             AttentionInput in;
             in.span = own;
             in.q_BSHD = held(q);
             in.k_BSHD = held(k);
             in.v_BSHD = held(v);
             const Tensor found = attention.Attend(in).cpu();
             EXPECT_LT(RelativeDifference(found, expected.narrow(1, own.begin, own.size())), 1e-5)
                 << "rank " << rank.index() << " of " << spans.size();
           },
           {.timing = timing});
}

TEST(SplitQueriesTest, AttendToTheTokensOfAllRanks) {
  for (const LocalTiming timing : {LocalTiming::kAtIssue, LocalTiming::kAtWait}) {
    ExpectWhole({{0, 7}}, timing);
    ExpectWhole({{0, 20}, {20, 35}}, timing);
    if (MaxRanks() >= 4) ExpectWhole({{0, 9}, {9, 10}, {10, 30}, {30, 31}}, timing);
  }
}

TEST(SplitQueriesTest, TellOfEquallyManyPartsOnAllRanks) {
  const std::vector<TokenSpan> spans{{0, 8200}, {8200, 8210}};  // Two parts, and ten queries.
  RunRanks(2, [&](const Rank& rank) {
    const auto all = rank.world.Split(0, "all");
    int told = 0;
    WideHeadOptions options = kOptions;
    options.tile_done = [&] { ++told; };
    SplitQueries attention(*all, spans, options);
    AttentionInput in;
    in.span = spans[rank.index()];
    const Tensor x = at::ones({1, in.span.size(), 1, 8}, rank.device);
    in.q_BSHD = in.k_BSHD = in.v_BSHD = x;
    EXPECT_TRUE(at::allclose(attention.Attend(in), x));
    EXPECT_EQ(told, 2) << "rank " << rank.index();
  });
}

TEST(SplitQueriesTest, RefuseTheTokensOfAnotherRank) {
  try {
    RunRanks(2, [](const Rank& rank) {
      const auto all = rank.world.Split(0, "all");
      AttentionInput in;
      in.span = {0, 3};
      in.q_BSHD = in.k_BSHD = in.v_BSHD = at::ones({1, 3, 1, 8}, rank.device);
      SplitQueries(*all, {{0, 3}, {3, 6}}, kOptions).Attend(in);
    });
    FAIL() << "attended";
  } catch (const RankFailure& failure) {
    EXPECT_THAT(failure.what(), HasSubstr("rank 1, which holds [3, 6)"));
  }
}

}  // namespace
}  // namespace patchflow

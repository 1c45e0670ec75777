// What happens to the other ranks when one fails in the middle of an image.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "parallel/group.h"
#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

constexpr int kWarmupSteps = 2;

// Every method, and three at once on 8 ranks.
std::vector<MethodCase> Cases() {
  return ThatFit({{"tensor=3"},
                  {"ulysses=3"},
                  {"ring=3"},
                  {"guidance=2"},
                  {"distrifusion=3,warmup_steps=2"},
                  {"pipefusion=3,patches=5,warmup_steps=2"},
                  {"pipefusion=2,patches=1,warmup_steps=2"},
                  {"pipefusion=2,patches=3,warmup_steps=2,ulysses=2,guidance=2"}});
}

// Fails in a block, as when a kernel or an allocation does.
class FailingTransformer final : public Transformer {
 public:
  FailingTransformer(std::unique_ptr<Transformer> inner, int calls_left)
      : inner_(std::move(inner)), calls_left_(calls_left) {}
  const TransformerConfig& config() const override { return inner_->config(); }
  at::ScalarType dtype() const override { return inner_->dtype(); }
  BlockRange blocks() const override { return inner_->blocks(); }
  int64_t parameter_bytes() const override { return inner_->parameter_bytes(); }
  std::unique_ptr<Conditioning> Prepare(const Prompt& prompt, TokenGrid grid,
                                        const std::vector<double>& timesteps,
                                        const Tensor& token_order) const override {
    return inner_->Prepare(prompt, grid, timesteps, token_order);
  }
  Tensor Embed(const Tensor& x_BSC, const StepContext& context) const override {
    return inner_->Embed(x_BSC, context);
  }
  Tensor RunBlocks(BlockRange range, Tensor h_BSE, const StepContext& context) const override {
    if (calls_left_-- == 0) {
      throw std::runtime_error("no memory left");
    }
    return inner_->RunBlocks(range, std::move(h_BSE), context);
  }
  Tensor Project(const Tensor& h_BSE, const StepContext& context) const override {
    return inner_->Project(h_BSE, context);
  }

 private:
  const std::unique_ptr<Transformer> inner_;
  mutable int calls_left_;
};

// One rank's end: what Denoise() threw.
using Ends = std::vector<std::string>;

struct Failure {
  std::string reported;
  Ends ends;
  absl::Duration took;
};

// `spoil` may change a rank's transformer, or the step before which its monitor stops it.
using Spoil = std::function<void(int rank, std::unique_ptr<Transformer>&, int& stop_at)>;
Failure RunFailing(const MethodCase& c, const Spoil& spoil, const RunOptions& options) {
  const Layout layout = ParseLayout(c.layout).value();
  const Network network = NetworkOf(c);
  const TestJob job = MakeTestJob(network.config, c.job);
  Failure failure{{}, Ends(layout.ranks()), {}};
  const absl::Time start = absl::Now();
  try {
    RunRanks(
        layout.ranks(),
        [&](const Rank& rank) {
          const GroupRank member(layout, rank.world, network.config);
          const EnginePorts ports = member.ports();
          auto transformer = network.make(ports, rank.device);
          int stop_at = -1;
          spoil(rank.index(), transformer, stop_at);
          const auto denoiser = ports.make_denoiser(*transformer);
          TestMonitor monitor(stop_at);
          try {
            denoiser->Denoise(job.To(rank.device).job(), monitor);
          } catch (const Cancelled& stopped) {
            failure.ends[rank.index()] = stopped.what();
          } catch (const std::exception& error) {
            failure.ends[rank.index()] = error.what();
            throw;
          }
        },
        options);
  } catch (const RankFailure& error) {
    failure.reported = error.what();
  }
  failure.took = absl::Now() - start;
  return failure;
}

class MethodFault : public testing::TestWithParam<MethodCase> {};
INSTANTIATE_TEST_SUITE_P(Layouts, MethodFault, testing::ValuesIn(Cases()), CaseName);

// In the first step, in the first stale one, and in the middle of the stale ones.
TEST_P(MethodFault, AThrowOnAnyRankEndsAll) {
  const Layout layout = ParseLayout(GetParam().layout).value();
  for (int bad = 0; bad < layout.ranks(); ++bad) {
    for (const int calls : {0, kWarmupSteps, kWarmupSteps + 2}) {
      const Failure failure = RunFailing(
          GetParam(),
          [&](int rank, std::unique_ptr<Transformer>& transformer, int&) {
            if (rank == bad) {
              transformer = std::make_unique<FailingTransformer>(std::move(transformer), calls);
            }
          },
          {});
      EXPECT_EQ(failure.reported, absl::StrCat("rank ", bad, ": no memory left"));
      EXPECT_LT(failure.took, absl::Seconds(5)) << "of " << RunOptions{}.wait_timeout;
      for (const std::string& end : failure.ends) {
        EXPECT_THAT(end, HasSubstr("no memory left"));
      }
    }
  }
}

// A rank that stops alone, which none may do, leaves the others waiting: for no longer than the
// timeout.
TEST_P(MethodFault, ARankThatStopsAloneEndsAllWithinTheTimeout) {
  const Layout layout = ParseLayout(GetParam().layout).value();
  const absl::Duration timeout = absl::Milliseconds(300);
  const int bad = layout.ranks() - 1;
  const Failure failure = RunFailing(GetParam(),
                                     [&](int rank, std::unique_ptr<Transformer>&, int& stop_at) {
                                       stop_at = rank == bad ? 3 : -1;
                                     },
                                     {.wait_timeout = timeout});
  EXPECT_THAT(failure.reported, HasSubstr("waited 300ms"));
  EXPECT_LT(failure.took, absl::Seconds(5));
  for (const std::string& end : failure.ends) {
    EXPECT_NE(end, "") << failure.reported;
  }
}

}  // namespace
}  // namespace patchflow

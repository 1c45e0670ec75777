// What each method costs a rank: bytes sent, parameters, caches, activations. Prints the table of
// parallel/README.md.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "parallel/axes.h"
#include "parallel/counting_communicator.h"
#include "parallel/group.h"
#include "tests/parallel/memory_meter.h"
#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

constexpr int kWarmupSteps = 2;
constexpr int kSteps = 6;
constexpr int64_t kFloatBytes = 4;
constexpr double kMegabyte = 1e6;

// One image of 256 px by the bundled model, with both branches of guidance.
const JobOptions kJob{.grid = {16, 16}, .steps = kSteps};

struct StepCost {
  int64_t sent_bytes = 0;
  int64_t held_bytes = 0;        // By tensors between steps, beside weights and request.
  int64_t activation_bytes = 0;  // At most during the step, beyond those held.
};

struct RankCost {
  int64_t parameter_bytes = 0;
  int64_t conditioning_bytes = 0;
  StepCost synchronous;
  StepCost stale;
};

// Looks at the counters between steps.
class CostMonitor final : public StepMonitor {
 public:
  CostMonitor(const CountingWorld& world, MemoryMeter& meter)
      : world_(world), meter_(meter), before_bytes_(meter.live_bytes()) {}
  bool Continue(int /*step*/) override {
    seen_.push_back({world_.Total().bytes, meter_.live_bytes(), meter_.peak_bytes()});
    meter_.ResetPeak();
    return true;
  }
  StepCost Between(int step, int next) const {
    const Seen& a = seen_[step];
    const Seen& b = seen_[next];
    return {b.sent - a.sent, b.live - before_bytes_, b.peak - std::max(a.live, b.live)};
  }

 private:
  struct Seen {
    int64_t sent;
    int64_t live;
    int64_t peak;
  };
  const CountingWorld& world_;
  MemoryMeter& meter_;
  const int64_t before_bytes_;
  std::vector<Seen> seen_;
};

int64_t BytesOf(const Conditioning& conditioning) {
  int64_t bytes = 0;
  for (const Tensor& t : conditioning.tensors()) {
    bytes += static_cast<int64_t>(t.nbytes());
  }
  return bytes;
}

RankCost CostOfRank(const Layout& layout, const Network& network, const TestJob& job,
                    const Rank& rank, MemoryMeter& meter) {
  RankCost cost;
  CountingWorld world(rank.world);
  const GroupRank member(layout, world, network.config);
  const EnginePorts ports = member.ports();
  const auto transformer = network.make(ports, rank.device);
  cost.parameter_bytes = transformer->parameter_bytes();
  const auto guidance = MakeGuidance(member.mesh(), job.guidance_scale);
  cost.conditioning_bytes = BytesOf(*transformer->Prepare(BranchesOf(job.prompts, *guidance),
                                                          job.grid, job.sampler.timesteps(), {}));
  const auto denoiser = ports.make_denoiser(*transformer);
  CostMonitor monitor(world, meter);
  denoiser->Denoise(job.job(), monitor);
  cost.synchronous = monitor.Between(kWarmupSteps - 1, kWarmupSteps);
  cost.stale = monitor.Between(kWarmupSteps + 1, kWarmupSteps + 2);
  return cost;
}

std::vector<RankCost> CostsOf(const MethodCase& c) {
  const Layout layout = ParseLayout(c.layout).value();
  const Network network = NetworkOf(c);
  const TestJob job = MakeTestJob(network.config, c.job);
  std::vector<RankCost> costs(layout.ranks());
  std::vector<MemoryMeter> meters(layout.ranks());
  RunRanks(layout.ranks(), [&](const Rank& rank) {
    MemoryMeter& meter = meters[rank.index()];
    const MeteredThread metered(meter);
    costs[rank.index()] = CostOfRank(layout, network, job, rank, meter);
  });
  return costs;
}

// The formulas, for one rank of a layout.
class Formula {
 public:
  Formula(const Layout& layout, const TransformerConfig& model, int rank)
      : layout_(layout),
        here_(CoordinatesOf(DegreesOf(layout), rank)),
        blocks_(BlocksOf(layout, here_.stage, model.num_blocks).size()),
        rows_(2 / layout.guidance),
        rows_before_text_(rows_ * blocks_ - (here_.stage == 0 ? rows_ - 1 : 0)),
        tokens_(kJob.grid.size()),
        share_(tokens_ / layout.sequence()),
        width_(model.width()),
        latent_bytes_(share_ * model.token_width() * kFloatBytes) {}

  // A step, in which all is fresh.
  int64_t SynchronousBytes() const {
    return SumBytes() + SwapBytes() + RingBytes() + OthersKeysBytes() + HopBytes() + BranchBytes();
  }
  // The ring goes round with the whole cache for each patch.
  int64_t StaleBytes() const { return SynchronousBytes() + (layout_.patches - 1) * RingBytes(); }

  // Of PixArt, whose blocks hold 16 E^2 + 10 E numbers that are split and 9 E that are not.
  int64_t ParameterBytes(int64_t outside_bytes) const {
    const int64_t split = 16 * width_ * width_ + 10 * width_;
    return outside_bytes + blocks_ * (split / layout_.tensor + 9 * width_) * kFloatBytes;
  }

  int64_t CacheBytes() const {
    const int64_t tokens = layout_.distrifusion > 1 ? tokens_ : share_;
    return layout_.is_stale() ? rows_before_text_ * 2 * HiddenOfRow(tokens) / layout_.tensor : 0;
  }
  // What comes from the stage before and goes to the next.
  int64_t HopBufferBytes() const {
    const int ends = (here_.stage > 0 ? 1 : 0) + (here_.stage + 1 < layout_.pipefusion ? 1 : 0);
    return ends * Hidden(share_);
  }
  // Of what one device needs for the whole image, which is mostly q, k and v: Ulysses adds those
  // that it sends and receives, the ring the block that is here and the next one.
  double MostActivationBytes(int64_t serial_bytes, int patches) const {
    constexpr double kSlack = 1.35;
    constexpr double kNotSplitByTensor = 0.4;  // h before and after a layer, beside q, k, v.
    const double part =
        layout_.tensor == 1 ? 1 : kNotSplitByTensor + (1 - kNotSplitByTensor) / layout_.tensor;
    const double tokens = static_cast<double>(patches) * layout_.sequence() * layout_.guidance;
    const int64_t ring_blocks = layout_.ring > 1 ? 2 * RingBlockBytes() : 0;
    const int64_t swapped =
        layout_.ulysses > 1 ? 2 * 3 * Hidden(share_) / layout_.tensor / patches : 0;
    return kSlack * part * static_cast<double>(serial_bytes) / tokens +
           static_cast<double>(ring_blocks + swapped);
  }
  // And the sampler's history; of the patches, and of the share that they were cut from.
  int64_t LatentBytes() const { return (layout_.has_pipefusion() ? 4 : 2) * latent_bytes_; }

 private:
  int64_t HiddenOfRow(int64_t tokens) const { return tokens * width_ * kFloatBytes; }
  int64_t Hidden(int64_t tokens) const { return rows_ * HiddenOfRow(tokens); }
  // Of self-attention, of attention to the text and of the MLP.
  int64_t SumBytes() const {
    const int64_t n = layout_.tensor;
    return (rows_before_text_ + 2 * rows_ * blocks_) * 2 * (n - 1) * HiddenOfRow(share_) / n;
  }
  int64_t SwapBytes() const {
    const int64_t n = layout_.ulysses;
    return rows_before_text_ * 4 * (n - 1) * HiddenOfRow(share_) / n / layout_.tensor;
  }
  int64_t RingBlockBytes() const { return rows_ * RingBlockBytesOfRow(); }
  int64_t RingBlockBytesOfRow() const {
    return 2 * HiddenOfRow(tokens_ / layout_.ring) / layout_.ulysses / layout_.tensor;
  }
  int64_t RingBytes() const {
    return rows_before_text_ * (layout_.ring - 1) * RingBlockBytesOfRow();
  }
  int64_t OthersKeysBytes() const {
    return rows_before_text_ * (layout_.distrifusion - 1) * 2 * HiddenOfRow(share_) /
           layout_.tensor;
  }
  int64_t HopBytes() const {
    return layout_.pipefusion == 1                ? 0
           : here_.stage + 1 < layout_.pipefusion ? Hidden(share_)
                                                  : latent_bytes_;
  }
  int64_t BranchBytes() const {
    const bool combines = here_.stage + 1 == layout_.pipefusion;
    return layout_.guidance == 2 && combines ? latent_bytes_ : 0;
  }

  const Layout layout_;
  const Coordinates here_;
  const int64_t blocks_;
  const int64_t rows_;
  // Of all blocks, up to the text of each: one in block 0, where branches are still alike.
  const int64_t rows_before_text_;
  const int64_t tokens_;
  const int64_t share_;
  const int64_t width_;
  const int64_t latent_bytes_;
};

void PrintRow(const std::string& layout, const std::vector<RankCost>& costs) {
  const auto most = [&](auto value) {
    int64_t largest = 0;
    for (const RankCost& cost : costs) {
      largest = std::max(largest, value(cost));
    }
    return static_cast<double>(largest) / kMegabyte;
  };
  std::printf("| `%s` | %.3f | %.3f | %.2f | %.2f | %.2f | %.2f |\n", layout.c_str(),
              most([](const RankCost& c) { return c.synchronous.sent_bytes; }),
              most([](const RankCost& c) { return c.stale.sent_bytes; }),
              most([](const RankCost& c) { return c.parameter_bytes; }),
              most([](const RankCost& c) { return c.stale.held_bytes - c.conditioning_bytes; }),
              most([](const RankCost& c) { return c.synchronous.activation_bytes; }),
              most([](const RankCost& c) { return c.stale.activation_bytes; }));
}

class MethodCost : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(
    Layouts, MethodCost,
    testing::Values("serial", "tensor=2", "tensor=4", "ulysses=2", "ulysses=4", "ring=2", "ring=4",
                    "ulysses=2,ring=2", "guidance=2", "distrifusion=2,warmup_steps=2",
                    "distrifusion=4,warmup_steps=2", "pipefusion=2,patches=4,warmup_steps=2",
                    "pipefusion=4,patches=8,warmup_steps=2",
                    "pipefusion=2,patches=4,warmup_steps=2,ulysses=2,guidance=2",
                    "pipefusion=2,patches=4,warmup_steps=2,ring=2,tensor=2"));

MethodCase CaseOf(const char* layout) { return {.layout = layout, .job = kJob, .bundled = true}; }

int64_t SerialActivationBytes() {
  static const int64_t bytes = CostsOf(CaseOf("serial"))[0].stale.activation_bytes;
  return bytes;
}

TEST_P(MethodCost, IsThatOfTheFormulas) {
  const MethodCase c = CaseOf(GetParam());
  const Layout layout = ParseLayout(c.layout).value();
  const TransformerConfig model = NetworkOf(c).config;
  EnginePorts no_blocks;
  no_blocks.blocks = {0, 0};
  const int64_t outside_bytes = NetworkOf(c).make(no_blocks, at::kCPU)->parameter_bytes();
  const std::vector<RankCost> costs = CostsOf(c);
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    SCOPED_TRACE(absl::StrCat(c.layout, ", rank ", rank));
    const Formula formula(layout, model, rank);
    const RankCost& cost = costs[rank];
    EXPECT_EQ(cost.synchronous.sent_bytes, formula.SynchronousBytes());
    EXPECT_EQ(cost.stale.sent_bytes, formula.StaleBytes());
    EXPECT_EQ(cost.parameter_bytes, formula.ParameterBytes(outside_bytes));
    const int64_t held = formula.CacheBytes() + formula.HopBufferBytes() + formula.LatentBytes();
    EXPECT_NEAR(cost.stale.held_bytes - cost.conditioning_bytes, held, 0.01 * held + 40e3);
    const int64_t serial_bytes = SerialActivationBytes();
    EXPECT_LE(cost.synchronous.activation_bytes, formula.MostActivationBytes(serial_bytes, 1));
    EXPECT_LE(cost.stale.activation_bytes,
              formula.MostActivationBytes(serial_bytes, layout.patches));
  }
  PrintRow(c.layout, costs);
}

}  // namespace
}  // namespace patchflow

#include "tests/parallel/method_case.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "absl/strings/str_cat.h"
#include "parallel/group.h"

namespace patchflow {
namespace {

constexpr const char* kBundledTransformer = "models/shapes-256/transformer";

std::string NameOfNetwork(const MethodCase& c) {
  return c.bundled
             ? "bundled"
             : absl::StrCat("toy_l", c.toy.num_blocks, "_h", c.toy.num_heads, "x", c.toy.head_size);
}

// Of all but the layout.
std::string NameOfJob(const MethodCase& c) {
  return absl::StrCat(NameOfNetwork(c), "_", c.job.grid.h, "x", c.job.grid.w, "_",
                      std::string(c.job.scheduler), "_s", c.job.steps, "_g", c.job.guidance_scale,
                      "_n", c.job.images);
}

Network BundledNetwork() {
  const auto config = ReadTransformerConfig(kBundledTransformer);
  EXPECT_TRUE(config.ok()) << config.status();
  return {*config, [](const EnginePorts& ports, at::Device device) {
            TransformerOptions options;
            options.read = {.device = device, .shard = ports.transformer_shard};
            options.read.dtype = RanksDtype();
            options.blocks = ports.blocks;
            auto transformer = LoadTransformer(kBundledTransformer, options);
            EXPECT_TRUE(transformer.ok()) << transformer.status();
            return *std::move(transformer);
          }};
}

TestModel ToyModel(ToyOptions toy) {
  return [toy](const EnginePorts& ports, at::Device device) {
    ToyOptions here = toy;
    here.shard = ports.transformer_shard;
    here.blocks = ports.blocks;
    here.device = device;
    here.dtype = RanksDtype();
    return MakeToyTransformer(here);
  };
}

double ToleranceOf(const MethodCase& c) {
  if (!RanksAreGpus()) {
    return c.tolerance;
  }
  return RanksDtype() == at::kFloat ? kGpuFloat : kHalfPrecision;
}

Tensor RunWith(const MethodCase& c, LocalTiming timing) {
  const Network network = NetworkOf(c);
  return RunLayout(ParseLayout(c.layout).value(), network.config, network.make,
                   MakeTestJob(network.config, c.job), {.timing = timing});
}

void ExpectClose(const Tensor& actual, const Tensor& expected, const MethodCase& c) {
  EXPECT_LE(RelativeError(actual, expected), ToleranceOf(c)) << c.layout << " " << NameOfJob(c);
}

}  // namespace

std::string CaseName(const testing::TestParamInfo<MethodCase>& info) {
  std::string name = absl::StrCat(info.param.layout, "_", NameOfJob(info.param));
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}

Network NetworkOf(const MethodCase& c) {
  return c.bundled ? BundledNetwork() : Network{ToyConfig(c.toy), ToyModel(c.toy)};
}

Tensor RunCase(const MethodCase& c) {
  const Tensor at_issue = RunWith(c, LocalTiming::kAtIssue);
  if (!RanksAreGpus()) {
    EXPECT_TRUE(at::equal(RunWith(c, LocalTiming::kAtWait), at_issue))
        << c.layout << " depends on when communication happens";
  }
  return at_issue;
}

void ExpectEqualsSerial(const MethodCase& c) {
  static std::map<std::string, Tensor> known;
  Tensor& expected = known[NameOfJob(c)];
  if (!expected.defined()) {
    const Network network = NetworkOf(c);
    expected = RunSerial(network.make, MakeTestJob(network.config, c.job));
  }
  ExpectClose(RunCase(c), expected, c);
}

void ExpectEqualsOracle(const MethodCase& c, const Oracle& oracle) {
  const Network network = NetworkOf(c);
  Tensor expected;
  RunRanks(1, [&](const Rank& rank) {
    const auto whole = network.make({}, rank.device);
    const TestJob job = MakeTestJob(network.config, c.job).To(rank.device);
    expected = oracle(*whole, job.job(), ParseLayout(c.layout).value()).cpu();
  });
  ExpectClose(RunCase(c), expected, c);
}

void ExpectRequestsLeaveNothingBehind(const MethodCase& c) {
  const Network network = NetworkOf(c);
  const TestJob job = MakeTestJob(network.config, c.job);
  JobOptions other = c.job;
  other.seed += 1;
  other.grid = {other.grid.w, other.grid.h + 1};
  other.guidance_scale = other.guidance_scale == 1 ? 2 : 1;
  std::vector<TestRequest> requests = {{job}, {MakeTestJob(network.config, other)}, {job}};
  for (int stop_at = 0; stop_at <= c.job.steps; ++stop_at) {
    requests.push_back({job, stop_at});
    requests.push_back({job});
  }
  const std::vector<Tensor> results =
      RunRequests(ParseLayout(c.layout).value(), network.config, network.make, requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].stop_at >= 0) {
      EXPECT_FALSE(results[i].defined()) << c.layout << " before step " << requests[i].stop_at;
    } else if (i != 1) {
      EXPECT_LE(RelativeError(results[i], results[0]), 0)
          << c.layout << " after the request stopped before step " << requests[i - 1].stop_at;
    }
  }
}

std::vector<MethodCase> ThatFit(std::vector<MethodCase> cases) {
  std::erase_if(cases, [](const MethodCase& c) {
    return ParseLayout(c.layout).value().ranks() > MaxRanks();
  });
  return cases;
}

}  // namespace patchflow

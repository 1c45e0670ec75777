#include "engine/sampler.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "engine/weights/json_file.h"
#include "tests/engine/golden.h"

namespace patchflow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::filesystem::path WithConfig(const nlohmann::json& config) {
  static int count = 0;
  const auto dir = std::filesystem::path(testing::TempDir()) /
                   ("sampler_test_" + std::to_string(getpid()) + "_" + std::to_string(count++));
  std::filesystem::create_directories(dir);
  std::string text = config.dump();
  if (const size_t found = text.find("\"lambda_min_clipped\":null"); found != std::string::npos) {
    text.replace(found, 25, "\"lambda_min_clipped\":-Infinity");
  }
  std::ofstream(dir / "scheduler_config.json") << text;
  return dir;
}

Tensor RowNumber(int64_t step) { return at::full({1}, step, at::kLong); }

// The model of tests/golden/samplers.py.
Tensor Model(const Tensor& x, double t) {
  const Tensor drift = at::tensor({0.05F, -0.02F, 0.03F, 0.01F}).view({1, 2, 2});
  return x * (0.5 + 0.5 * t / 1000) + drift;
}

Sampler MakeOrDie(std::string_view name, const SamplerConfig& config, int steps) {
  auto sampler = Sampler::Make(name, config, steps);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  return *std::move(sampler);
}

TEST(SamplerTest, FollowsDiffusersTrajectories) {
  const GoldenFile golden("samplers/trajectories.safetensors");
  const auto cases = ReadJsonFile(GoldenDir() / "samplers/cases.json");
  ASSERT_TRUE(cases.ok()) << cases.status();
  const Tensor noise = at::tensor({0.7F, -1.3F, 0.2F, 1.9F}).view({1, 2, 2});
  std::set<std::string> seen;
  for (size_t number = 0; number < cases->size(); ++number) {
    const nlohmann::json& c = cases->at(number);
    const auto name = c["sampler"].get<std::string>();
    const int steps = c["steps"].get<int>();
    SCOPED_TRACE(name + " " + std::to_string(steps) + " steps " + c["config"].dump());
    const auto config = ReadSamplerConfig(WithConfig(c["config"]));
    ASSERT_TRUE(config.ok()) << config.status();
    const Sampler sampler = MakeOrDie(name, *config, steps);
    const std::string prefix = std::to_string(number);
    const Tensor timesteps = golden.Get(prefix + ".timesteps");
    ASSERT_TRUE(at::equal(at::tensor(sampler.timesteps(), at::kDouble), timesteps));
    const Tensor expected = golden.Get(prefix + ".x");
    Tensor x = noise * sampler.initial_noise_scale();
    SamplerState state;
    // 1000 steps in float32, on both sides, part a little.
    const double tolerance = steps > 100 ? 2e-4 : 1e-5;
    EXPECT_LT(RelativeDifference(x, expected[0]), 1e-6);
    for (int step = 0; step < sampler.num_steps(); ++step) {
      const Tensor row = RowNumber(step);
      const Tensor eps = Model(sampler.ScaleInput(row, x), sampler.timesteps()[step]);
      x = sampler.Step(row, x, eps, state);
      ASSERT_LT(RelativeDifference(x, expected[step + 1]), tolerance) << "after step " << step;
    }
    seen.insert(name);
  }
  EXPECT_EQ(seen.size(), Sampler::Names().size());
}

TEST(SamplerTest, ZeroedStateServesTheFirstStepAsAnUndefinedOneDoes) {
  const Sampler sampler = MakeOrDie("dpm-solver++", {}, 20);
  const Tensor x = at::randn({2, 6, 4});
  const Tensor eps = at::randn({2, 6, 4});
  SamplerState undefined;
  SamplerState zeros{at::zeros_like(x)};
  const void* memory = zeros.previous_x0_NSC.data_ptr();
  EXPECT_TRUE(at::equal(sampler.Step(RowNumber(0), x, eps, undefined),
                        sampler.Step(RowNumber(0), x, eps, zeros)));
  EXPECT_TRUE(at::equal(undefined.previous_x0_NSC, zeros.previous_x0_NSC));
  EXPECT_EQ(zeros.previous_x0_NSC.data_ptr(), memory);
}

TEST(SamplerTest, PatchesStepAsTheWholeDoes) {
  const Sampler sampler = MakeOrDie("dpm-solver++", {}, 20);
  const Tensor x = at::randn({2, 9, 4});
  const Tensor eps = at::randn({2, 9, 4});
  SamplerState whole{at::randn({2, 9, 4})};
  std::vector<Tensor> parts;
  std::vector<Tensor> histories;
  for (TokenSpan span : {TokenSpan{0, 4}, TokenSpan{4, 5}, TokenSpan{5, 9}}) {
    SamplerState part = whole.Slice(span);
    parts.push_back(sampler.Step(RowNumber(7), x.narrow(1, span.begin, span.size()),
                                 eps.narrow(1, span.begin, span.size()), part));
    histories.push_back(part.previous_x0_NSC);
  }
  EXPECT_TRUE(at::equal(at::cat(parts, 1), sampler.Step(RowNumber(7), x, eps, whole)));
  EXPECT_TRUE(at::equal(at::cat(histories, 1), whole.previous_x0_NSC));
}

// Of sizes that leave a rest behind the vectors of each image.
TEST(SamplerTest, StepsEachImageOfABatchAsIfItWereAlone) {
  for (const std::string_view name : Sampler::Names()) {
    const Sampler sampler = MakeOrDie(name, {}, 20);
    const Tensor x = at::randn({3, 1023, 7});
    const Tensor eps = at::randn({3, 1023, 7});
    const Tensor previous = at::randn({3, 1023, 7});
    SamplerState state{previous.clone()};
    const Tensor next = sampler.Step(RowNumber(7), x, eps, state);
    for (int64_t n = 0; n < 3; ++n) {
      const auto own = [n](const Tensor& all) { return all.narrow(0, n, 1).clone(); };
      SamplerState alone{own(previous)};
      EXPECT_TRUE(at::equal(own(next), sampler.Step(RowNumber(7), own(x), own(eps), alone)))
          << name << ", " << n;
      EXPECT_TRUE(at::equal(own(state.previous_x0_NSC), alone.previous_x0_NSC));
    }
  }
}

TEST(SamplerTest, SlicesAreCopies) {
  SamplerState whole{at::zeros({1, 4, 2})};
  whole.Slice({1, 3}).previous_x0_NSC.fill_(1);
  EXPECT_EQ(whole.previous_x0_NSC.sum().item<float>(), 0);
  EXPECT_FALSE(SamplerState{}.Slice({1, 3}).previous_x0_NSC.defined());
}

TEST(SamplerTest, ConvertsHalfPrecisionPredictions) {
  const Sampler sampler = MakeOrDie("ddim", {}, 4);
  const Tensor x = at::randn({1, 3, 4});
  const Tensor eps = at::randn({1, 3, 4}).to(at::kBFloat16);
  SamplerState state;
  const Tensor next = sampler.Step(RowNumber(1), x, eps, state);
  EXPECT_EQ(next.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(next, sampler.Step(RowNumber(1), x, eps.to(at::kFloat), state)));
  EXPECT_FALSE(state.previous_x0_NSC.defined());
}

TEST(SamplerTest, RepeatedTimestepsStayFinite) {
  for (std::string_view name : Sampler::Names()) {
    for (const char* spacing : {"linspace", "trailing"}) {
      SamplerConfig config;
      config.timestep_spacing = spacing;
      const Sampler sampler = MakeOrDie(name, config, 1000);
      Tensor x = at::randn({1, 2, 2}) * sampler.initial_noise_scale();
      SamplerState state;
      for (int step = 0; step < 1000; ++step) {
        const Tensor row = RowNumber(step);
        x = sampler.Step(row, x, Model(sampler.ScaleInput(row, x), sampler.timesteps()[step]),
                         state);
      }
      EXPECT_TRUE(at::isfinite(x).all().item<bool>()) << name << " " << spacing;
    }
  }
}

TEST(SamplerTest, TrailingSpacingHasAsManyStepsAsAskedFor) {
  SamplerConfig config;
  config.timestep_spacing = "trailing";
  for (int steps : {61, 103, 499, 998}) {
    const Sampler sampler = MakeOrDie("dpm-solver++", config, steps);
    EXPECT_EQ(sampler.num_steps(), steps);
    EXPECT_EQ(sampler.timesteps().front(), 999);
    EXPECT_GE(sampler.timesteps().back(), 0);
  }
}

TEST(SamplerTest, SamplersOfAFewStepsShareKernels) {
  Sampler twenty = MakeOrDie("euler", {}, 20);
  const Sampler seven = MakeOrDie("euler", {}, 7);
  EXPECT_TRUE(twenty.RunsTheSameKernels(seven));
  EXPECT_FALSE(twenty.RunsTheSameKernels(MakeOrDie("ddim", {}, 20)));
  EXPECT_FALSE(twenty.RunsTheSameKernels(MakeOrDie("euler", {}, 200)));
  twenty.CopyTable(seven);
  EXPECT_EQ(twenty.num_steps(), 7);
  const Tensor x = at::randn({1, 2, 2});
  EXPECT_TRUE(at::equal(twenty.ScaleInput(RowNumber(6), x), seven.ScaleInput(RowNumber(6), x)));
}

TEST(SamplerTest, RefusesUnknownNamesAndImpossibleSteps) {
  EXPECT_THAT(std::string(Sampler::Make("heun", {}, 20).status().message()),
              HasSubstr("\"heun\" is not one of dpm-solver++, ddim, euler"));
  for (int steps : {0, -1, 1001}) {
    EXPECT_EQ(Sampler::Make("ddim", {}, steps).status().code(), absl::StatusCode::kInvalidArgument);
  }
  SamplerConfig leading;
  leading.timestep_spacing = "leading";
  EXPECT_EQ(Sampler::Make("dpm-solver++", leading, 1000).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Sampler::Make("ddim", leading, 1000).ok());
  leading.steps_offset = 1;
  EXPECT_THAT(std::string(Sampler::Make("ddim", leading, 1000).status().message()),
              HasSubstr("timestep 1000 was never trained"));
}

TEST(SamplerTest, NamesTheCheckpointsOwnScheduler) {
  EXPECT_THAT(Sampler::Names(), ElementsAre("dpm-solver++", "ddim", "euler"));
  SamplerConfig config;
  config.class_name = "EulerDiscreteScheduler";
  EXPECT_EQ(*Sampler::NameOf(config), "euler");
  config.class_name = "PNDMScheduler";
  EXPECT_THAT(std::string(Sampler::NameOf(config).status().message()),
              HasSubstr("\"PNDMScheduler\""));
}

TEST(SamplerConfigTest, ReadsTheBundledModels) {
  const auto config = ReadSamplerConfig("models/shapes-256/scheduler");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->class_name, "DPMSolverMultistepScheduler");
  EXPECT_EQ(config->timestep_spacing, "linspace");
}

TEST(SamplerConfigTest, RefusesByNameWhatIsNotDone) {
  const nlohmann::json good = {{"_class_name", "DDIMScheduler"}};
  ASSERT_TRUE(ReadSamplerConfig(WithConfig(good)).ok());
  const std::vector<std::pair<std::string, nlohmann::json>> refused = {
      {"prediction_type", "v_prediction"},
      {"algorithm_type", "sde-dpmsolver++"},
      {"solver_type", "heun"},
      {"solver_order", 3},
      {"thresholding", true},
      {"clip_sample", true},
      {"use_karras_sigmas", true},
      {"use_exponential_sigmas", true},
      {"use_beta_sigmas", true},
      {"use_lu_lambdas", true},
      {"use_flow_sigmas", true},
      {"rescale_betas_zero_snr", true},
      {"trained_betas", {0.1, 0.2}},
      {"variance_type", "learned_range"},
      {"beta_schedule", "squaredcos_cap_v2"},
      {"timestep_spacing", "random"},
      {"final_sigmas_type", "half"},
      {"lambda_min_clipped", -5.1},
      {"interpolation_type", "log_linear"},
      {"timestep_type", "continuous"},
      {"beta_start", 0},
      {"beta_end", 1.5},
      {"num_train_timesteps", 0},
      {"steps_offset", 1000},
      {"use_dynamic_shifting", true},
  };
  for (const auto& [field, value] : refused) {
    nlohmann::json bad = good;
    bad[field] = value;
    const auto status = ReadSamplerConfig(WithConfig(bad)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
    EXPECT_THAT(std::string(status.message()), HasSubstr("scheduler_config.json"));
  }
}

TEST(SamplerConfigTest, ReportsAMissingFile) {
  EXPECT_EQ(ReadSamplerConfig("models/absent").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace patchflow

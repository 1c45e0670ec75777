#include "engine/sampler_tables.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/noise_schedule.h"

namespace patchflow {
namespace {

constexpr int kStepsFromWhichTheLastMayBeOfSecondOrder = 15;

constexpr std::array<SamplerKind, 3> kSamplerKinds{{
    {"dpm-solver++", "DPMSolverMultistepScheduler", MakeDpmSolver},
    {"ddim", "DDIMScheduler", MakeDdim},
    {"euler", "EulerDiscreteScheduler", MakeEuler},
}};

std::string SpacingOf(const SamplerConfig& config, std::string_view by_default) {
  return config.timestep_spacing.empty() ? std::string(by_default) : config.timestep_spacing;
}

absl::Status NoTimesteps(std::string_view sampler, const SamplerConfig& config, int steps,
                         std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("steps: ", steps, " for the scheduler ", std::string(sampler), " with ",
                   config.num_train_timesteps, " training timesteps and steps_offset ",
                   config.steps_offset, ": ", std::string(why)));
}

double FinalSigma(const SamplerConfig& config, const NoiseSchedule& noise) {
  return config.final_sigmas_type == "sigma_min" ? noise.Sigma(0) : 0;
}

// Of every step, and the final one, rounded to float32 as diffusers has them.
std::vector<double> SigmasOf(const SamplerConfig& config, const NoiseSchedule& noise,
                             const std::vector<double>& timesteps) {
  std::vector<double> sigmas;
  for (double t : timesteps) {
    sigmas.push_back(static_cast<float>(noise.Sigma(t)));
  }
  sigmas.push_back(static_cast<float>(FinalSigma(config, noise)));
  return sigmas;
}

bool DpmStepIsOfFirstOrder(const SamplerConfig& config, int step, int steps) {
  const bool last = step == steps - 1;
  const bool last_of_few =
      config.lower_order_final && steps < kStepsFromWhichTheLastMayBeOfSecondOrder;
  return config.solver_order == 1 || step == 0 ||
         (last && (config.euler_at_final || last_of_few || config.final_sigmas_type == "zero"));
}

SamplerRow DpmRow(const std::vector<double>& sigmas, int step, bool first_order) {
  const auto alpha = [&](int i) { return 1 / std::sqrt(sigmas[i] * sigmas[i] + 1); };
  const auto noise = [&](int i) { return sigmas[i] * alpha(i); };
  // Differences of lambda = ln(alpha / (sigma alpha)) = -ln(sigma).
  const double h = std::log(sigmas[step]) - std::log(sigmas[step + 1]);
  const double weight = -alpha(step + 1) * std::expm1(-h);
  SamplerRow row;
  row.x0_x = 1 / alpha(step);
  row.x0_eps = -noise(step) / alpha(step);
  row.next_x = noise(step + 1) / noise(step);
  row.next_x0 = weight;
  if (!first_order && sigmas[step - 1] != sigmas[step]) {
    const double h_before = std::log(sigmas[step - 1]) - std::log(sigmas[step]);
    row.next_previous = -0.5 * weight * h / h_before;
    row.next_x0 = weight - row.next_previous;
  }
  return row;
}

}  // namespace

std::span<const SamplerKind> SamplerKinds() { return kSamplerKinds; }

absl::StatusOr<SamplerTables> MakeDpmSolver(const SamplerConfig& config, int steps) {
  const std::string spacing = SpacingOf(config, "linspace");
  if (spacing == "leading" && steps >= config.num_train_timesteps) {
    return NoTimesteps("dpm-solver++", config, steps, "leading spacing has room for one step less");
  }
  const NoiseSchedule noise(config);
  SamplerTables tables;
  tables.timesteps = MakeTimesteps(spacing, config, steps, Spacing::kLeavesOutZero, false);
  tables.looks_back = config.solver_order == 2;
  const std::vector<double> sigmas = SigmasOf(config, noise, tables.timesteps);
  for (int step = 0; step < steps; ++step) {
    tables.rows.push_back(DpmRow(sigmas, step, DpmStepIsOfFirstOrder(config, step, steps)));
  }
  return tables;
}

absl::StatusOr<SamplerTables> MakeDdim(const SamplerConfig& config, int steps) {
  const NoiseSchedule noise(config);
  SamplerTables tables;
  tables.timesteps =
      MakeTimesteps(SpacingOf(config, "leading"), config, steps, Spacing::kEndsAtZero, false);
  if (tables.timesteps.front() >= config.num_train_timesteps) {
    return NoTimesteps("ddim", config, steps,
                       absl::StrCat("timestep ", tables.timesteps.front(), " was never trained"));
  }
  const int stride = config.num_train_timesteps / steps;
  const double final_alpha_bar = config.set_alpha_to_one ? 1.0 : noise.alpha_bar(0);
  for (double timestep : tables.timesteps) {
    const int t = static_cast<int>(timestep);
    const double now = noise.alpha_bar(t);
    const double next = t >= stride ? noise.alpha_bar(t - stride) : final_alpha_bar;
    const double eps_ratio = std::sqrt((1 - next) / (1 - now));
    SamplerRow row;
    row.x0_x = 1 / std::sqrt(now);
    row.x0_eps = -std::sqrt((1 - now) / now);
    row.next_x = eps_ratio;
    row.next_x0 = std::sqrt(next) - eps_ratio * std::sqrt(now);
    tables.rows.push_back(row);
  }
  return tables;
}

absl::StatusOr<SamplerTables> MakeEuler(const SamplerConfig& config, int steps) {
  const std::string spacing = SpacingOf(config, "linspace");
  const NoiseSchedule noise(config);
  SamplerTables tables;
  tables.timesteps = MakeTimesteps(spacing, config, steps, Spacing::kEndsAtZero, true);
  const std::vector<double> sigmas = SigmasOf(config, noise, tables.timesteps);
  const double largest = *std::max_element(sigmas.begin(), sigmas.end());
  tables.initial_noise_scale = spacing == "leading" ? std::sqrt(largest * largest + 1) : largest;
  for (int step = 0; step < steps; ++step) {
    SamplerRow row;
    row.input_scale = 1 / std::sqrt(sigmas[step] * sigmas[step] + 1);
    row.x0_x = 1;
    row.x0_eps = -sigmas[step];
    row.next_x = sigmas[step + 1] / sigmas[step];
    row.next_x0 = 1 - row.next_x;
    tables.rows.push_back(row);
  }
  return tables;
}

}  // namespace patchflow

// Samplers (DPM-Solver++ 2M, DDIM, Euler) as tables of coefficients: every one of them is, per step,
//     input  = input_scale x
//     x0     = x0_x x + x0_eps eps
//     x'     = next_x x + next_x0 x0 + next_previous previous_x0
// which is elementwise in tokens, so that any rank may step any run of them, and needs nothing but a row number.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/ports.h"

namespace patchflow {

// scheduler/scheduler_config.json, with diffusers' defaults for what it leaves out.
struct SamplerConfig {
  std::string class_name;  // "DPMSolverMultistepScheduler", "DDIMScheduler", "EulerDiscreteScheduler"
  int num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  std::string beta_schedule = "linear";       // or "scaled_linear"
  std::string timestep_spacing = "linspace";  // or "leading", "trailing"
  int steps_offset = 0;
  int solver_order = 2;
  bool lower_order_final = true;
  bool euler_at_final = false;
  std::string final_sigmas_type = "zero";
  bool set_alpha_to_one = true;
};
// INVALID_ARGUMENT for what these samplers do not do (v_prediction, thresholding, Karras sigmas, ...), by field name.
absl::StatusOr<SamplerConfig> ReadSamplerConfig(const std::filesystem::path& scheduler_dir);

// The data prediction of the step before, for some run of tokens: a plain value.
struct SamplerState {
  Tensor previous_x0_NSC;  // float32. Undefined before the first step.
  SamplerState Slice(TokenSpan part) const;
};

class Sampler {
 public:
  // Names as the API spells them: "dpm-solver++", "ddim", "euler". The table of samplers.
  static std::vector<std::string_view> Names();
  // The name that a checkpoint's own scheduler has here; INVALID_ARGUMENT for one that is not in the table.
  static absl::StatusOr<std::string_view> NameOf(const SamplerConfig& config);
  // INVALID_ARGUMENT for an unknown name or steps outside [1, num_train_timesteps].
  static absl::StatusOr<Sampler> Make(std::string_view name, const SamplerConfig& config, int steps);

  int num_steps() const { return static_cast<int>(timesteps_.size()); }
  const std::vector<double>& timesteps() const { return timesteps_; }
  double initial_noise_scale() const { return initial_noise_scale_; }

  Sampler To(at::Device device) const;

  // `step`: int64 [1] on the device of x. x and eps float32 (eps is converted if it is not).
  Tensor ScaleInput(const Tensor& step, const Tensor& x_NSC) const;
  // x of the next step; `state` becomes that of the next step (in place if already allocated, so that its memory is
  // stable under a CUDA graph).
  Tensor Step(const Tensor& step, const Tensor& x_NSC, const Tensor& eps_NSC, SamplerState& state) const;

 private:
  std::vector<double> timesteps_;
  double initial_noise_scale_ = 1;
  Tensor table_;  // float32 [steps, 6]
};

}  // namespace patchflow

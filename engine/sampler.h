// Samplers (DPM-Solver++ 2M, DDIM, Euler) as tables of coefficients: every one of them is, per
// step,
//     input  = input_scale x
//     x0     = x0_x x + x0_eps eps
//     x'     = next_x x + next_x0 x0 + next_previous previous_x0
// which is elementwise in tokens, so that any rank may step any run of them, and needs nothing but
// a row number.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/ports.h"

namespace patchflow {

// scheduler/scheduler_config.json, with diffusers' defaults for what it leaves out. It serves every
// sampler of the table, also another one than the checkpoint's own, as diffusers' from_config does.
struct SamplerConfig {
  std::string
      class_name;  // "DPMSolverMultistepScheduler", "DDIMScheduler", "EulerDiscreteScheduler"
  int num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  std::string beta_schedule = "linear";  // or "scaled_linear"
  std::string
      timestep_spacing;  // "linspace", "leading", "trailing"; empty is the sampler's own default.
  int steps_offset = 0;
  int solver_order = 2;  // or 1
  bool lower_order_final = true;
  bool euler_at_final = false;
  std::string final_sigmas_type = "zero";  // or "sigma_min"
  bool set_alpha_to_one = true;
};
// INVALID_ARGUMENT for what these samplers do not do (v_prediction, thresholding, Karras sigmas,
// ...), by field name. Differs from diffusers: a config without clip_sample does not clip,
// whichever sampler it serves.
absl::StatusOr<SamplerConfig> ReadSamplerConfig(const std::filesystem::path& scheduler_dir);

// The data prediction of the step before, for some run of tokens: a plain value.
struct SamplerState {
  // float32. Undefined before the first step, and after it for samplers that look at no step before
  // unless it was allocated: then it is kept for whoever looks at it.
  Tensor previous_x0_NSC;
  SamplerState Slice(TokenSpan part) const;  // A copy.
};

class Sampler {
 public:
  // Names as the API spells them: "dpm-solver++", "ddim", "euler". The table of samplers.
  static std::vector<std::string_view> Names();
  // The name that a checkpoint's own scheduler has here; INVALID_ARGUMENT for one that is not in
  // the table.
  static absl::StatusOr<std::string_view> NameOf(const SamplerConfig& config);
  // INVALID_ARGUMENT for an unknown name, steps outside [1, num_train_timesteps], and steps for
  // which the spacing of the config gives no usable timesteps.
  static absl::StatusOr<Sampler> Make(std::string_view name, const SamplerConfig& config,
                                      int steps);

  int num_steps() const { return static_cast<int>(timesteps_.size()); }
  const std::vector<double>& timesteps() const { return timesteps_; }
  double initial_noise_scale() const { return initial_noise_scale_; }

  Sampler To(at::Device device) const;
  Sampler Clone() const;  // With a table of its own.

  // `step`: int64 [1] on the device of x. x and eps float32 (eps is converted if it is not). May
  // return x.
  Tensor ScaleInput(const Tensor& step, const Tensor& x_NSC) const;
  // x of the next step; `state` becomes that of the next step (in place if already allocated, so
  // that its memory is stable under a CUDA graph; zeros serve the first step as well as an
  // undefined state).
  // The images of a batch are stepped as each would be alone, to the bit.
  Tensor Step(const Tensor& step, const Tensor& x_NSC, const Tensor& eps_NSC,
              SamplerState& state) const;

  // For kernels captured over this sampler's table: whether those of `other` differ in nothing but
  // the table's numbers, and the way to have them from now on.
  bool RunsTheSameKernels(const Sampler& other) const;
  void CopyTable(const Sampler& other);

 private:
  Tensor StepTogether(const Tensor& step, const Tensor& x_NSC, const Tensor& eps_NSC,
                      SamplerState& state) const;

  std::vector<double> timesteps_;
  double initial_noise_scale_ = 1;
  bool scales_input_ = false;
  bool looks_back_ = false;
  Tensor table_;  // float32 [steps rounded up, 6]
};

}  // namespace patchflow

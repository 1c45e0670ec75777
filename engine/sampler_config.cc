#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/sampler.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

constexpr int64_t kMaxTrainTimesteps = 100'000;

std::string OneOf(JsonFields& fields, std::string_view field, std::string_view by_default,
                  std::initializer_list<std::string_view> known) {
  std::string value = fields.StringOr(field, by_default);
  if (fields.Has(field) && std::find(known.begin(), known.end(), value) == known.end()) {
    fields.Refuse(
        field, absl::StrCat("not one of ",
                            absl::StrJoin(known, ", ", [](std::string* out, std::string_view name) {
                              out->append(name);
                            })));
  }
  return value;
}

double Fraction(JsonFields& fields, std::string_view field, double by_default) {
  const double value = fields.DoubleOr(field, by_default);
  if (!(value > 0 && value < 1)) {
    fields.Refuse(field, "not between 0 and 1");
    return by_default;
  }
  return value;
}

void RefuseWhatIsNotDone(JsonFields& fields) {
  fields.Expect("prediction_type", "epsilon");
  fields.Expect("algorithm_type", "dpmsolver++");
  fields.Expect("solver_type", "midpoint");
  fields.Expect("interpolation_type", "linear");
  fields.Expect("timestep_type", "discrete");
  fields.Expect("lambda_min_clipped", -std::numeric_limits<double>::infinity());
  for (const char* flag : {"thresholding", "clip_sample", "rescale_betas_zero_snr",
                           "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
                           "use_lu_lambdas", "use_flow_sigmas", "use_dynamic_shifting"}) {
    fields.Expect(flag, false);
  }
  for (const char* field : {"trained_betas", "variance_type"}) {
    if (fields.Find(field) != nullptr) {
      fields.Refuse(field, "not null");
    }
  }
}

}  // namespace

absl::StatusOr<SamplerConfig> ReadSamplerConfig(const std::filesystem::path& scheduler_dir) {
  absl::StatusOr<JsonFields> read = JsonFields::Read(scheduler_dir / "scheduler_config.json");
  if (!read.ok()) {
    return read.status();
  }
  JsonFields& fields = *read;
  SamplerConfig config;
  config.class_name = fields.String("_class_name");
  config.num_train_timesteps =
      static_cast<int>(fields.IntOr("num_train_timesteps", 1000, {1, kMaxTrainTimesteps}));
  config.beta_start = Fraction(fields, "beta_start", config.beta_start);
  config.beta_end = Fraction(fields, "beta_end", config.beta_end);
  config.beta_schedule = OneOf(fields, "beta_schedule", "linear", {"linear", "scaled_linear"});
  config.timestep_spacing =
      OneOf(fields, "timestep_spacing", "", {"linspace", "leading", "trailing"});
  config.steps_offset =
      static_cast<int>(fields.IntOr("steps_offset", 0, {0, config.num_train_timesteps - 1}));
  config.solver_order = static_cast<int>(fields.IntOr("solver_order", 2, {1, 2}));
  config.lower_order_final = fields.BoolOr("lower_order_final", true);
  config.euler_at_final = fields.BoolOr("euler_at_final", false);
  config.final_sigmas_type = OneOf(fields, "final_sigmas_type", "zero", {"zero", "sigma_min"});
  config.set_alpha_to_one = fields.BoolOr("set_alpha_to_one", true);
  RefuseWhatIsNotDone(fields);
  if (absl::Status status = fields.Finish(); !status.ok()) {
    return status;
  }
  return config;
}

}  // namespace patchflow

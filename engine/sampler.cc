#include "engine/sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/sampler_tables.h"

namespace patchflow {
namespace {

constexpr int64_t kColumns = 6;
constexpr int64_t kRowGrain = 64;  // Samplers of any 1 to 64 steps have tables of one shape.

std::string KnownNames() {
  return absl::StrJoin(SamplerKinds(), ", ",
                       [](std::string* out, const SamplerKind& kind) { out->append(kind.name); });
}

Tensor TableOf(const std::vector<SamplerRow>& rows) {
  const auto count = static_cast<int64_t>(rows.size());
  Tensor table = at::zeros({(count + kRowGrain - 1) / kRowGrain * kRowGrain, kColumns}, at::kFloat);
  float* out = table.mutable_data_ptr<float>();
  for (const SamplerRow& row : rows) {
    for (double value :
         {row.input_scale, row.x0_x, row.x0_eps, row.next_x, row.next_x0, row.next_previous}) {
      *out++ = static_cast<float>(value);
    }
  }
  return table;
}

}  // namespace

SamplerState SamplerState::Slice(TokenSpan part) const {
  if (!previous_x0_NSC.defined()) {
    return {};
  }
  return {previous_x0_NSC.narrow(1, part.begin, part.size()).clone(at::MemoryFormat::Contiguous)};
}

std::vector<std::string_view> Sampler::Names() {
  std::vector<std::string_view> names;
  for (const SamplerKind& kind : SamplerKinds()) {
    names.push_back(kind.name);
  }
  return names;
}

absl::StatusOr<std::string_view> Sampler::NameOf(const SamplerConfig& config) {
  for (const SamplerKind& kind : SamplerKinds()) {
    if (kind.diffusers_class == config.class_name) {
      return kind.name;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("scheduler_config.json: _class_name is \"", config.class_name,
                   "\", which has no counterpart among ", KnownNames()));
}

absl::StatusOr<Sampler> Sampler::Make(std::string_view name, const SamplerConfig& config,
                                      int steps) {
  const auto kinds = SamplerKinds();
  const auto kind =
      std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.name == name; });
  if (kind == kinds.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("scheduler: \"", std::string(name), "\" is not one of ", KnownNames()));
  }
  if (steps < 1 || steps > config.num_train_timesteps) {
    return absl::InvalidArgumentError(
        absl::StrCat("steps: ", steps, " is not within 1 and ", config.num_train_timesteps));
  }
  absl::StatusOr<SamplerTables> tables = kind->make(config, steps);
  if (!tables.ok()) {
    return tables.status();
  }
  Sampler sampler;
  sampler.timesteps_ = std::move(tables->timesteps);
  sampler.initial_noise_scale_ = tables->initial_noise_scale;
  sampler.looks_back_ = tables->looks_back;
  sampler.scales_input_ = std::any_of(tables->rows.begin(), tables->rows.end(),
                                      [](const SamplerRow& row) { return row.input_scale != 1; });
  sampler.table_ = TableOf(tables->rows);
  return sampler;
}

Sampler Sampler::To(at::Device device) const {
  Sampler moved = *this;
  moved.table_ = table_.to(device);
  return moved;
}

Sampler Sampler::Clone() const {
  Sampler copy = *this;
  copy.table_ = table_.clone();
  return copy;
}

Tensor Sampler::ScaleInput(const Tensor& step, const Tensor& x_NSC) const {
  if (!scales_input_) {
    return x_NSC;
  }
  return x_NSC * at::index_select(table_, 0, step).select(1, 0);
}

// See ByImage().
Tensor Sampler::Step(const Tensor& step, const Tensor& x_NSC, const Tensor& eps_NSC,
                     SamplerState& state) const {
  const int64_t images = x_NSC.size(0);
  if (images == 1 || !x_NSC.is_cpu()) return StepTogether(step, x_NSC, eps_NSC, state);
  std::vector<Tensor> next;
  std::vector<Tensor> x0;
  for (int64_t n = 0; n < images; ++n) {
    const auto own = [n](const Tensor& all) { return all.narrow(0, n, 1); };
    SamplerState of_one;
    if (state.previous_x0_NSC.defined()) of_one.previous_x0_NSC = own(state.previous_x0_NSC);
    next.push_back(StepTogether(step, own(x_NSC), own(eps_NSC), of_one));
    if (of_one.previous_x0_NSC.defined()) x0.push_back(of_one.previous_x0_NSC);
  }
  if (!state.previous_x0_NSC.defined() && !x0.empty()) state.previous_x0_NSC = at::cat(x0);
  return at::cat(next);
}

Tensor Sampler::StepTogether(const Tensor& step, const Tensor& x_NSC, const Tensor& eps_NSC,
                             SamplerState& state) const {
  const std::vector<Tensor> row = at::index_select(table_, 0, step).unbind(1);
  const Tensor x0_NSC = at::mul(x_NSC, row[1]).addcmul_(eps_NSC.to(at::kFloat), row[2]);
  Tensor next_NSC = at::mul(x_NSC, row[3]).addcmul_(x0_NSC, row[4]);
  if (!looks_back_) {
    if (state.previous_x0_NSC.defined()) {
      state.previous_x0_NSC.copy_(x0_NSC);
    }
    return next_NSC;
  }
  if (state.previous_x0_NSC.defined()) {
    next_NSC.addcmul_(state.previous_x0_NSC, row[5]);
    state.previous_x0_NSC.copy_(x0_NSC);
  } else {
    state.previous_x0_NSC = x0_NSC;
  }
  return next_NSC;
}

bool Sampler::RunsTheSameKernels(const Sampler& other) const {
  return scales_input_ == other.scales_input_ && looks_back_ == other.looks_back_ &&
         table_.sizes() == other.table_.sizes() && table_.device() == other.table_.device();
}

void Sampler::CopyTable(const Sampler& other) {
  timesteps_ = other.timesteps_;
  initial_noise_scale_ = other.initial_noise_scale_;
  table_.copy_(other.table_);
}

}  // namespace patchflow

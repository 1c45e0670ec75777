#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/model_folder.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

constexpr char kDefaultsFile[] = "patchflow.json";

absl::Status ReadDefaults(const std::filesystem::path& model_dir, ModelDescription& description) {
  const std::filesystem::path file = model_dir / kDefaultsFile;
  if (!std::filesystem::exists(file)) return absl::OkStatus();
  const absl::StatusOr<nlohmann::json> json = ReadJsonFile(file);
  if (!json.ok()) return json.status();
  absl::StatusOr<JsonFields> fields = JsonFields::Read(file);
  if (!fields.ok()) return fields.status();
  for (const auto& item : json->items()) {
    if (item.key() != "default_guidance_scale" && item.key() != "default_steps") {
      fields->Refuse(item.key(), "no such key: default_guidance_scale, default_steps");
    }
  }
  const double guidance =
      fields->DoubleOr("default_guidance_scale", description.default_guidance_scale);
  if (!(guidance >= 1 && guidance <= kMaxGuidanceScale)) {
    fields->Refuse("default_guidance_scale", absl::StrCat("not in 1 .. ", kMaxGuidanceScale));
  }
  description.default_guidance_scale = guidance;
  description.default_steps = static_cast<int>(
      fields->IntOr("default_steps", description.default_steps, {.min = 1, .max = kMaxSteps}));
  return fields->Finish();
}

absl::StatusOr<std::string> ReadArchitecture(const std::filesystem::path& model_dir) {
  absl::StatusOr<JsonFields> config = JsonFields::Read(model_dir / "transformer" / "config.json");
  if (!config.ok()) return config.status();
  std::string name = config->String("_class_name");
  if (const absl::Status status = config->Finish(); !status.ok()) return status;
  return name;
}

absl::Status ReadScheduler(const std::filesystem::path& model_dir, ModelDescription& description) {
  const absl::StatusOr<SamplerConfig> config = ReadSamplerConfig(model_dir / "scheduler");
  if (!config.ok()) return config.status();
  const absl::StatusOr<std::string_view> name = Sampler::NameOf(*config);
  if (!name.ok()) return name.status();
  description.default_scheduler = std::string(*name);
  return absl::OkStatus();
}

template <typename T>
absl::Status Take(absl::StatusOr<T> value, T& to) {
  if (!value.ok()) return value.status();
  to = *std::move(value);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelDescription> DescribeModel(const std::filesystem::path& model_dir) {
  if (!std::filesystem::is_directory(model_dir)) {
    return absl::NotFoundError(absl::StrCat("no folder ", model_dir.string()));
  }
  ModelDescription description;
  ModelIndex index;
  const absl::Status status =
      Together({Take(ReadModelIndex(model_dir), index),
                Take(ReadArchitecture(model_dir), description.architecture),
                Take(ReadTransformerConfig(model_dir / "transformer"), description.transformer),
                Take(ReadVaeConfig(model_dir / "vae"), description.vae),
                ReadScheduler(model_dir, description), ReadDefaults(model_dir, description)});
  if (!status.ok()) return absl::InvalidArgumentError(status.message());
  description.transformer.max_text_tokens = index.max_text_tokens;
  if (description.vae.latent_channels != description.transformer.latent_channels) {
    return absl::InvalidArgumentError(absl::StrCat(
        model_dir.string(), ": transformer/config.json: in_channels is ",
        description.transformer.latent_channels, ", vae/config.json: latent_channels is ",
        description.vae.latent_channels, ", they must be equal"));
  }
  return description;
}

}  // namespace patchflow

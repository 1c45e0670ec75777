#include "engine/transformer.h"

#include <ATen/ATen.h>

#include <array>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/models/pixart.h"
#include "engine/models/pixart_config.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

struct Model {
  std::string_view class_name;
  absl::StatusOr<TransformerConfig> (*read_config)(const std::filesystem::path&);
  absl::StatusOr<std::unique_ptr<Transformer>> (*load)(const std::filesystem::path&,
                                                       const TransformerOptions&);
};

absl::StatusOr<TransformerConfig> ReadCommonPixArtConfig(const std::filesystem::path& dir) {
  const absl::StatusOr<PixArtConfig> config = ReadPixArtConfig(dir);
  if (!config.ok()) {
    return config.status();
  }
  return config->common;
}

constexpr std::array<Model, 2> kModels{{
    {"PixArtTransformer2DModel", ReadCommonPixArtConfig, LoadPixArt},
    {"Transformer2DModel", ReadCommonPixArtConfig, LoadPixArt},
}};

absl::StatusOr<const Model*> FindModel(const std::filesystem::path& transformer_dir) {
  absl::StatusOr<JsonFields> fields = JsonFields::Read(transformer_dir / "config.json");
  if (!fields.ok()) {
    return fields.status();
  }
  const std::string class_name = fields->String("_class_name");
  for (const Model& model : kModels) {
    if (model.class_name == class_name) {
      return &model;
    }
  }
  if (fields->Finish().ok()) {
    fields->Refuse("_class_name",
                   absl::StrCat("not one of ", absl::StrJoin(kModels, ", ", [](auto* out, auto& m) {
                                  out->append(m.class_name);
                                })));
  }
  return fields->Finish();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> LoadTransformer(
    const std::filesystem::path& transformer_dir, const TransformerOptions& options) {
  const absl::StatusOr<const Model*> model = FindModel(transformer_dir);
  if (!model.ok()) {
    return model.status();
  }
  return (*model)->load(transformer_dir, options);
}

absl::StatusOr<TransformerConfig> ReadTransformerConfig(
    const std::filesystem::path& transformer_dir) {
  const absl::StatusOr<const Model*> model = FindModel(transformer_dir);
  if (!model.ok()) {
    return model.status();
  }
  return (*model)->read_config(transformer_dir);
}

Tensor Patchify(const Tensor& latents_NcHW, int patch_size) {
  const auto sizes = latents_NcHW.sizes();
  TORCH_CHECK(sizes.size() == 4 && sizes[2] % patch_size == 0 && sizes[3] % patch_size == 0,
              "latents of ", sizes, " cannot be cut into patches of ", patch_size);
  const int64_t h = sizes[2] / patch_size;
  const int64_t w = sizes[3] / patch_size;
  return latents_NcHW.reshape({sizes[0], sizes[1], h, patch_size, w, patch_size})
      .permute({0, 2, 4, 3, 5, 1})
      .reshape({sizes[0], h * w, patch_size * patch_size * sizes[1]});
}

Tensor Unpatchify(const Tensor& x_NSC, TokenGrid grid, int patch_size) {
  TORCH_CHECK(x_NSC.size(1) == grid.size() && x_NSC.size(2) % (patch_size * patch_size) == 0,
              "tokens of ", x_NSC.sizes(), " are not patches of ", patch_size, " on a grid of ",
              grid.h, " rows of ", grid.w);
  const int64_t channels = x_NSC.size(2) / (patch_size * patch_size);
  return x_NSC.reshape({x_NSC.size(0), grid.h, grid.w, patch_size, patch_size, channels})
      .permute({0, 5, 1, 3, 2, 4})
      .reshape({x_NSC.size(0), channels, grid.h * patch_size, grid.w * patch_size});
}

}  // namespace patchflow

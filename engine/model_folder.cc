#include "engine/model_folder.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

struct Pipeline {
  const char* class_name;
  int max_text_tokens;
};
constexpr std::array kPipelines = {Pipeline{"PixArtAlphaPipeline", 120},
                                   Pipeline{"PixArtSigmaPipeline", 300}};

struct Component {
  const char* name;
  std::vector<std::string> classes;  // Empty: the component's own config decides.
};
const std::vector<Component>& Components() {
  static const auto& components =
      *new std::vector<Component>{{"scheduler", {}},
                                  {"text_encoder", {"T5EncoderModel"}},
                                  {"tokenizer", {"T5Tokenizer", "T5TokenizerFast"}},
                                  {"transformer", {}},
                                  {"vae", {"AutoencoderKL"}}};
  return components;
}

void CheckComponent(const std::filesystem::path& model_dir, const Component& component,
                    JsonFields& index) {
  const std::vector<std::string> library_and_class = index.Strings(component.name);
  if (library_and_class.empty()) return;
  const std::string& found = library_and_class.back();
  if (library_and_class.size() != 2) {
    index.Refuse(component.name, "wanted [library, class]");
  } else if (!component.classes.empty() &&
             std::find(component.classes.begin(), component.classes.end(), found) ==
                 component.classes.end()) {
    index.Refuse(component.name,
                 absl::StrCat("known classes are ", absl::StrJoin(component.classes, ", ")));
  }
  if (!std::filesystem::is_directory(model_dir / component.name)) {
    index.Refuse(component.name, absl::StrCat("but there is no folder ", component.name, "/"));
  }
}

}  // namespace

absl::Status Together(const std::vector<absl::Status>& statuses) {
  std::vector<std::string> lines;
  absl::StatusCode code = absl::StatusCode::kOk;
  for (const absl::Status& status : statuses) {
    if (status.ok()) continue;
    code =
        lines.empty() || code == status.code() ? status.code() : absl::StatusCode::kInvalidArgument;
    for (const absl::string_view line : absl::StrSplit(status.message(), '\n')) {
      if (std::find(lines.begin(), lines.end(), line) == lines.end()) lines.emplace_back(line);
    }
  }
  return lines.empty() ? absl::OkStatus() : absl::Status(code, absl::StrJoin(lines, "\n"));
}

absl::StatusOr<ModelIndex> ReadModelIndex(const std::filesystem::path& model_dir) {
  if (!std::filesystem::is_directory(model_dir)) {
    return absl::NotFoundError(absl::StrCat("no folder ", model_dir.string()));
  }
  absl::StatusOr<JsonFields> index = JsonFields::Read(model_dir / "model_index.json");
  if (!index.ok()) return index.status();
  ModelIndex result;
  result.pipeline_class = index->String("_class_name");
  const auto pipeline = std::find_if(
      kPipelines.begin(), kPipelines.end(),
      [&](const Pipeline& known) { return result.pipeline_class == known.class_name; });
  if (pipeline != kPipelines.end()) {
    result.max_text_tokens = pipeline->max_text_tokens;
  } else if (!result.pipeline_class.empty()) {
    index->Refuse("_class_name", "known pipelines are PixArtAlphaPipeline, PixArtSigmaPipeline");
  }
  for (const Component& component : Components()) CheckComponent(model_dir, component, *index);
  if (const absl::Status status = index->Finish(); !status.ok()) return status;
  return result;
}

}  // namespace patchflow

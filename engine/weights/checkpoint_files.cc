#include "engine/weights/checkpoint_files.h"

#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

namespace fs = std::filesystem;

struct Layout {
  std::string_view single;
  std::string_view index;
};
constexpr std::array<Layout, 4> kLayouts = {{
    {"diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"},
    {"model.safetensors", "model.safetensors.index.json"},
    {"diffusion_pytorch_model.fp16.safetensors",
     "diffusion_pytorch_model.safetensors.index.fp16.json"},
    {"model.fp16.safetensors", "model.safetensors.index.fp16.json"},
}};

bool Exists(const fs::path& file) {
  std::error_code error;
  return fs::exists(file, error);
}

absl::Status NothingFound(const fs::path& dir) {
  std::vector<std::string> wanted;
  for (const Layout& layout : kLayouts) {
    wanted.emplace_back(layout.single);
    wanted.emplace_back(layout.index);
  }
  std::string pickle;
  for (const std::string_view name : {"diffusion_pytorch_model.bin", "pytorch_model.bin"}) {
    if (Exists(dir / name)) {
      pickle = absl::StrCat("; ", std::string(name), " is a pickle: save it as safetensors");
    }
  }
  return absl::NotFoundError(
      absl::StrCat(dir.string(), ": no weights; looked for ", absl::StrJoin(wanted, ", "), pickle));
}

// Collects what is wrong; the worst code wins over NOT_FOUND.
class Problems {
 public:
  void Add(const absl::Status& status) {
    if (!absl::IsNotFound(status)) only_not_found_ = false;
    messages_.emplace_back(status.message());
  }
  absl::Status Finish() const {
    if (messages_.empty()) return absl::OkStatus();
    const std::string all = absl::StrJoin(messages_, "\n");
    return only_not_found_ ? absl::NotFoundError(all) : absl::InvalidArgumentError(all);
  }

 private:
  std::vector<std::string> messages_;
  bool only_not_found_ = true;
};

void AddAll(const std::shared_ptr<const SafetensorsFile>& file, TensorTable& table,
            Problems& problems) {
  for (const auto& [name, stored] : file->tensors()) {
    const auto [at, added] = table.emplace(name, LocatedTensor{file, &stored});
    if (!added) {
      problems.Add(absl::InvalidArgumentError(
          absl::StrCat(file->path().string(), ": tensor ", name, " also stands in ",
                       at->second.file->path().filename().string())));
    }
  }
}

bool IsFileName(const nlohmann::json& value) {
  if (!value.is_string()) return false;
  const std::string name = value.get<std::string>();
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

// Tensor name -> file name, as the index has it.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const fs::path& index) {
  absl::StatusOr<nlohmann::json> json = ReadJsonFile(index);
  if (!json.ok()) return json.status();
  const auto wrong = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(index.string(), ": ", what));
  };
  if (!json->is_object() || !json->contains("weight_map") || !(*json)["weight_map"].is_object()) {
    return wrong("holds no object weight_map");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : (*json)["weight_map"].items()) {
    if (!IsFileName(file)) {
      return wrong(absl::StrCat("weight_map: ", tensor, " is in ", Abbreviated(file),
                                ", which is no file name"));
    }
    files[tensor] = file.get<std::string>();
  }
  if (files.empty()) return wrong("weight_map is empty");
  return files;
}

absl::StatusOr<TensorTable> OpenSharded(const fs::path& index) {
  const auto files = ReadIndex(index);
  if (!files.ok()) return files.status();
  std::set<std::string> names;
  for (const auto& [tensor, file] : *files) names.insert(file);

  Problems problems;
  TensorTable table;
  std::set<std::string> opened;
  for (const std::string& name : names) {
    const auto file = SafetensorsFile::Open(index.parent_path() / name);
    if (!file.ok()) {
      problems.Add(file.status());
      continue;
    }
    opened.insert(name);
    AddAll(*file, table, problems);
  }
  for (const auto& [tensor, file] : *files) {
    const auto found = table.find(tensor);
    if (opened.contains(file) &&
        (found == table.end() || found->second.file->path().filename() != file)) {
      problems.Add(absl::InvalidArgumentError(
          absl::StrCat(index.string(), ": tensor ", tensor, " should be in ", file, ", but is ",
                       found == table.end()
                           ? std::string("nowhere")
                           : absl::StrCat("in ", found->second.file->path().filename().string()))));
    }
  }
  if (absl::Status status = problems.Finish(); !status.ok()) return status;
  return table;
}

absl::StatusOr<TensorTable> OpenSingle(const fs::path& path) {
  const auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  Problems none;
  TensorTable table;
  AddAll(*file, table, none);
  return table;
}

}  // namespace

absl::StatusOr<TensorTable> OpenCheckpoint(const fs::path& component_dir) {
  for (const Layout& layout : kLayouts) {
    if (Exists(component_dir / layout.single)) return OpenSingle(component_dir / layout.single);
    if (Exists(component_dir / layout.index)) return OpenSharded(component_dir / layout.index);
  }
  return NothingFound(component_dir);
}

}  // namespace patchflow

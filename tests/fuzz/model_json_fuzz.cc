// The JSON of a model's folder, read as every component reads its own.
#include <nlohmann/json.hpp>

#include "engine/weights/json_file.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using patchflow::JsonFields;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  patchflow::ParseJson(text, "fuzz.json", {.nonfinite = false, .unique_keys = true}).IgnoreError();
  const patchflow::MemoryFile file(data, size);
  auto fields = JsonFields::Read(file.path());
  if (!fields.ok()) {
    return 0;
  }
  const int64_t layers = fields->Int("num_layers", {.min = 1, .max = 1000});
  fields->Ints("block_out_channels", {.min = 1, .max = 1 << 16});
  fields->DoubleOr("norm_eps", 1e-6);
  fields->BoolOr("gated", false);
  fields->StringOr("_class_name", "none");
  fields->Strings("architectures");
  JsonFields nested = fields->Object("added_tokens_decoder");
  nested.StringOr("content", "");
  fields->Expect("model_type", "t5");
  if (layers < 1 || layers > 1000) {  // A getter gives what is in its range, whatever it found.
    std::abort();
  }
  fields->Finish().IgnoreError();
  return 0;
}

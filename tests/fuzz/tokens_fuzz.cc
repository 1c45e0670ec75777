// A file of tokens, and the tokens that it names.
#include "server/tokens.h"

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <cstdlib>
#include <string>

namespace {

using patchflow::TokenTable;

// Whoever shows a token of the file has the name beside it, and the rights that are listed there.
void CheckEntry(const TokenTable& table, const YAML::Node& entry) {
  if (!entry["token"]) {
    return;
  }
  const std::string token = entry["token"].Scalar();
  const auto identity = table.Check(token, "");
  if (!identity.ok()) {
    std::abort();
  }
  const YAML::Node methods = entry["methods"];
  if (identity->name != entry["name"].Scalar() || (methods && !methods.IsSequence())) {
    return;  // Another entry has the same token; or there is one method without a list.
  }
  bool may = !methods;
  for (const YAML::Node& method : methods) {
    may = may || method.Scalar() == "GetModel";
  }
  if (table.Check(token, "GetModel").ok() != may) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto table = TokenTable::Parse(text, "fuzz.yaml");
  if (!table.ok()) {
    return table.status().message().empty() ? std::abort(), 0 : 0;
  }
  if (table->size() == 0 || table->Check("", "").ok() ||
      table->Check("a token that is in no file", "GetModel").ok()) {
    std::abort();
  }
  const YAML::Node entries = YAML::Load(text)["tokens"];
  if (entries.size() != table->size()) {
    std::abort();
  }
  for (const YAML::Node& entry : entries) {
    CheckEntry(*table, entry);
  }
  return 0;
}

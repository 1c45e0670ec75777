// JSON files as Python writes them (NaN and Infinity are numbers), and their fields, typed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/weights/json_text.h"

namespace patchflow {

// A whole file of at most 64 MiB, NaN and infinities allowed. NOT_FOUND if there is none.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::filesystem::path& file);

// The fields of a JSON object, such as a component's config.json. Errors are sticky, as in
// WeightReader: a failing getter returns its fallback (or a value in range) and reading goes on;
// Finish() reports every bad field together, with the file, the field, what was found and what was
// wanted. A field that is null counts as absent. Dots in the name of a field mean nothing. Copies
// and nested objects share one list of errors. Not thread-safe.
class JsonFields {
 public:
  struct Range {
    int64_t min = std::numeric_limits<int64_t>::min();
    int64_t max = std::numeric_limits<int64_t>::max();
  };

  // NOT_FOUND or INVALID_ARGUMENT if the file is absent, is not JSON, or holds something else than
  // an object.
  static absl::StatusOr<JsonFields> Read(const std::filesystem::path& file);
  // The same, but a file that does not exist is an object without fields.
  static absl::StatusOr<JsonFields> ReadIfPresent(const std::filesystem::path& file);

  bool Has(std::string_view field) const;
  // The value as it stands; nullptr if absent or null. Lives as long as any copy of this object.
  const nlohmann::json* Find(std::string_view field) const;

  // Required fields.
  int64_t Int(std::string_view field, Range range);
  double Double(std::string_view field);
  bool Bool(std::string_view field);
  std::string String(std::string_view field);
  std::vector<int64_t> Ints(std::string_view field, Range range);
  std::vector<std::string> Strings(std::string_view field);

  // Optional fields.
  int64_t IntOr(std::string_view field, int64_t fallback, Range range);
  double DoubleOr(std::string_view field, double fallback);
  bool BoolOr(std::string_view field, bool fallback);
  std::string StringOr(std::string_view field, std::string_view fallback);
  std::vector<int64_t> IntsOr(std::string_view field, std::vector<int64_t> fallback, Range range);
  std::vector<std::string> StringsOr(std::string_view field, std::vector<std::string> fallback);

  // The object under `field`; absent, it is empty, so that its own required fields report
  // themselves.
  JsonFields Object(std::string_view field);

  // A field that has one legal value: an error if it is present and differs.
  void Expect(std::string_view field, const nlohmann::json& wanted);
  // "<file>: <field> is <what was found>, <why>".
  void Refuse(std::string_view field, std::string_view why);
  // "<file>: <message>".
  void Fail(std::string_view message);

  // OK, or INVALID_ARGUMENT with one line an error.
  absl::Status Finish() const;

 private:
  struct State;
  static JsonFields Of(const std::filesystem::path& file, nlohmann::json object);
  JsonFields(std::shared_ptr<State> state, const nlohmann::json* object, std::string scope);
  const nlohmann::json* Required(std::string_view field);
  template <typename T>
  T Get(std::string_view field, const nlohmann::json* value, T fallback, std::string_view wanted);
  int64_t InRange(std::string_view field, const nlohmann::json* value, int64_t fallback,
                  Range range);
  std::vector<int64_t> AllInRange(std::string_view field, const nlohmann::json* value,
                                  std::vector<int64_t> fallback, Range range);
  std::vector<std::string> AllStrings(std::string_view field, const nlohmann::json* value,
                                      std::vector<std::string> fallback);

  std::shared_ptr<State> state_;
  const nlohmann::json* object_;
  std::string scope_;  // Where the object stands in the file: "" or "added_tokens_decoder.0.".
};

}  // namespace patchflow

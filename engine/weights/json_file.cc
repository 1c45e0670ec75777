#include "engine/weights/json_file.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace patchflow {
namespace {

using nlohmann::json;

constexpr uintmax_t kMaxFileBytes = uintmax_t{64} << 20;

std::string Shown(JsonFields::Range range) {
  if (range.min == JsonFields::Range().min && range.max == JsonFields::Range().max) {
    return "an integer";
  }
  if (range.max == JsonFields::Range().max) return absl::StrCat("an integer >= ", range.min);
  return absl::StrCat("an integer in [", range.min, ", ", range.max, "]");
}

bool Holds(JsonFields::Range range, const json& value) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return false;
  }
  return value.get<int64_t>() >= range.min && value.get<int64_t>() <= range.max;
}

template <typename T>
bool Is(const json& value);
template <>
bool Is<double>(const json& value) {
  return value.is_number();
}
template <>
bool Is<bool>(const json& value) {
  return value.is_boolean();
}
template <>
bool Is<std::string>(const json& value) {
  return value.is_string();
}

}  // namespace

struct JsonFields::State {
  std::string file;
  json root;
  std::vector<std::string> errors;
};

absl::StatusOr<json> ReadJsonFile(const std::filesystem::path& file) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(file.string(), ": no such file"));
  }
  if (!std::filesystem::is_regular_file(status)) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": not a regular file"));
  }
  const uintmax_t bytes = std::filesystem::file_size(file, error);
  if (!error && bytes > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.string(), ": ", bytes, " bytes, the limit is ", kMaxFileBytes));
  }
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (!in || (bytes > 0 && !(text << in.rdbuf()))) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": cannot be read"));
  }
  return ParseJson(text.str(), file.string(), {.nonfinite = true});
}

JsonFields::JsonFields(std::shared_ptr<State> state, const json* object, std::string scope)
    : state_(std::move(state)), object_(object), scope_(std::move(scope)) {}

absl::StatusOr<JsonFields> JsonFields::Read(const std::filesystem::path& file) {
  absl::StatusOr<json> value = ReadJsonFile(file);
  if (!value.ok()) return value.status();
  if (!value->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.string(), ": holds ", Abbreviated(*value), ", not an object"));
  }
  return Of(file, *std::move(value));
}

absl::StatusOr<JsonFields> JsonFields::ReadIfPresent(const std::filesystem::path& file) {
  absl::StatusOr<JsonFields> fields = Read(file);
  if (absl::IsNotFound(fields.status())) return Of(file, json::object());
  return fields;
}

JsonFields JsonFields::Of(const std::filesystem::path& file, json object) {
  auto state = std::make_shared<State>();
  state->file = file.string();
  state->root = std::move(object);
  const json* root = &state->root;
  return JsonFields(std::move(state), root, "");
}

bool JsonFields::Has(std::string_view field) const { return Find(field) != nullptr; }

const json* JsonFields::Find(std::string_view field) const {
  const auto found = object_->find(std::string(field));
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

const json* JsonFields::Required(std::string_view field) {
  const json* value = Find(field);
  if (value == nullptr) {
    const bool null = object_->contains(std::string(field));
    Fail(absl::StrCat(scope_, std::string(field), null ? " is null" : " is missing"));
  }
  return value;
}

template <typename T>
T JsonFields::Get(std::string_view field, const json* value, T fallback, std::string_view wanted) {
  if (value == nullptr) return fallback;
  if (Is<T>(*value)) return value->get<T>();
  Refuse(field, absl::StrCat("not ", std::string(wanted)));
  return fallback;
}

int64_t JsonFields::InRange(std::string_view field, const json* value, int64_t fallback,
                            Range range) {
  if (value == nullptr) return fallback;
  if (Holds(range, *value)) return value->get<int64_t>();
  Refuse(field, absl::StrCat("not ", Shown(range)));
  return fallback;
}

std::vector<int64_t> JsonFields::AllInRange(std::string_view field, const json* value,
                                            std::vector<int64_t> fallback, Range range) {
  if (value == nullptr) return fallback;
  std::vector<int64_t> out;
  for (size_t i = 0; value->is_array() && i < value->size(); ++i) {
    if (Holds(range, (*value)[i])) out.push_back((*value)[i].get<int64_t>());
  }
  if (value->is_array() && out.size() == value->size()) return out;
  Refuse(field, absl::StrCat("not a list of which each is ", Shown(range)));
  return fallback;
}

std::vector<std::string> JsonFields::AllStrings(std::string_view field, const json* value,
                                                std::vector<std::string> fallback) {
  if (value == nullptr) return fallback;
  std::vector<std::string> out;
  for (size_t i = 0; value->is_array() && i < value->size(); ++i) {
    if ((*value)[i].is_string()) out.push_back((*value)[i].get<std::string>());
  }
  if (value->is_array() && out.size() == value->size()) return out;
  Refuse(field, "not a list of strings");
  return fallback;
}

int64_t JsonFields::Int(std::string_view field, Range range) {
  return InRange(field, Required(field), range.min, range);
}
double JsonFields::Double(std::string_view field) {
  return Get<double>(field, Required(field), 0, "a number");
}
bool JsonFields::Bool(std::string_view field) {
  return Get<bool>(field, Required(field), false, "true or false");
}
std::string JsonFields::String(std::string_view field) {
  return Get<std::string>(field, Required(field), "", "a string");
}
std::vector<int64_t> JsonFields::Ints(std::string_view field, Range range) {
  return AllInRange(field, Required(field), {}, range);
}
std::vector<std::string> JsonFields::Strings(std::string_view field) {
  return AllStrings(field, Required(field), {});
}

int64_t JsonFields::IntOr(std::string_view field, int64_t fallback, Range range) {
  return InRange(field, Find(field), fallback, range);
}
double JsonFields::DoubleOr(std::string_view field, double fallback) {
  return Get<double>(field, Find(field), fallback, "a number");
}
bool JsonFields::BoolOr(std::string_view field, bool fallback) {
  return Get<bool>(field, Find(field), fallback, "true or false");
}
std::string JsonFields::StringOr(std::string_view field, std::string_view fallback) {
  return Get<std::string>(field, Find(field), std::string(fallback), "a string");
}
std::vector<int64_t> JsonFields::IntsOr(std::string_view field, std::vector<int64_t> fallback,
                                        Range range) {
  return AllInRange(field, Find(field), std::move(fallback), range);
}
std::vector<std::string> JsonFields::StringsOr(std::string_view field,
                                               std::vector<std::string> fallback) {
  return AllStrings(field, Find(field), std::move(fallback));
}

JsonFields JsonFields::Object(std::string_view field) {
  static const json& empty = *new json(json::object());
  const json* value = Find(field);
  if (value != nullptr && !value->is_object()) {
    Refuse(field, "not an object");
    value = nullptr;
  }
  return JsonFields(state_, value == nullptr ? &empty : value,
                    absl::StrCat(scope_, std::string(field), "."));
}

void JsonFields::Expect(std::string_view field, const json& wanted) {
  const json* value = Find(field);
  if (value != nullptr && *value != wanted) {
    Refuse(field, absl::StrCat("only ", Abbreviated(wanted), " is supported"));
  }
}

void JsonFields::Refuse(std::string_view field, std::string_view why) {
  const json* value = Find(field);
  Fail(absl::StrCat(scope_, std::string(field), " is ",
                    value == nullptr ? std::string("missing") : Abbreviated(*value), ", ",
                    std::string(why)));
}

void JsonFields::Fail(std::string_view message) {
  state_->errors.push_back(absl::StrCat(state_->file, ": ", std::string(message)));
}

absl::Status JsonFields::Finish() const {
  if (state_->errors.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(state_->errors, "\n"));
}

}  // namespace patchflow

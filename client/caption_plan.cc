#include "client/caption_plan.h"

#include <CLI/Validators.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/caption_file.h"
#include "client/generation_result.h"
#include "client/hasher.h"
#include "client/text_file.h"

namespace patchflow {
namespace {

constexpr int kNumberDigits = 5;
constexpr int kMaxInFlight = 256;
constexpr char kFileOfImage[] = "{prompt}.{ext}";
constexpr char kRecordName[] = "generation.json";

// What can't be said of images that are numbered by their captions.
absl::Status CheckOptions(const GenerateOptions& generate) {
  const auto refuse = [](const char* option) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": does not go with --captions"));
  };
  if (generate.prompt) return refuse("PROMPT");
  if (!generate.file.empty()) return refuse("--file");
  if (generate.count.value_or(1) != 1) return refuse("--count");
  if (!generate.request_id.empty()) return refuse("--request-id");
  if (generate.validate_only) return refuse("--validate-only");
  return generate.negative ? CheckUtf8("--negative", *generate.negative) : absl::OkStatus();
}

absl::StatusOr<OutputPattern> ParseOut(std::string out) {
  if (out.empty() || absl::EndsWith(out, "/")) out += kFileOfImage;
  auto pattern = OutputPattern::Parse(out, kNumberDigits);
  if (!pattern.ok()) return pattern;
  if (pattern->is_stdout() || !(pattern->Has("prompt") || pattern->Has("seed")) ||
      pattern->Has("request_id") || pattern->Has("model")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--out: \"", out,
                     "\": with --captions it must be a folder that ends with /, or a pattern with "
                     "{prompt} or {seed}, without {request_id} and {model}"));
  }
  return pattern;
}

// All that the images depend on, as far as this program knows.
absl::StatusOr<nlohmann::json> Record(const CaptionPlan& plan, const GenerateOptions& generate) {
  auto request = BuildRequest(generate, "", absl::Seconds(1));
  if (!request.ok()) return request.status();
  request->clear_request_id();
  request->clear_scheduling();
  request->clear_stream();
  request->mutable_prompt()->clear_text();
  request->mutable_sampling()->clear_seed();
  Hasher hasher;
  for (const std::string& caption : plan.captions) hasher.Add(caption + "\n");
  return nlohmann::json{{"captions", plan.captions.size()},
                        {"captions_sha256", absl::BytesToHexString(hasher.Finish())},
                        {"first_seed", plan.first_seed},
                        {"request", MessageJson(*request)}};
}

absl::Status CheckRecord(const CaptionPlan& plan, const nlohmann::json& record) {
  std::ifstream file(plan.record_path);
  if (!file) {
    if (plan.present == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--out: ", plan.present, " images are there, but no ", plan.record_path,
                     " that says how they were made; choose an empty folder"));
  }
  const nlohmann::json before = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!before.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("--out: ", plan.record_path, " is not JSON"));
  }
  if (before == record) return absl::OkStatus();
  const nlohmann::json difference = nlohmann::json::diff(before, record);
  std::vector<std::string> fields;
  for (const nlohmann::json& entry : difference) {
    fields.push_back(entry.value("path", std::string()).substr(1));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--out: the images there were made otherwise, by ", plan.record_path, ": ",
                   absl::StrJoin(fields, ", "), "; choose another folder"));
}

}  // namespace

void AddCaptionOptions(CLI::App& command, CaptionOptions& options) {
  const std::string group = "Captions (image i shows caption i and has the seed --seed + i, or i)";
  CLI::Option* const captions = command.add_option(
      "--captions", options.file,
      "Draw an image for each caption of this file: COCO's dataset_coco.json or captions_*.json, "
      "PartiPrompts' .tsv, or a caption a line. Images that are there already are kept; --out is a "
      "folder if it ends with /");
  captions->type_name("FILE")->group(group);
  command.add_option("--part", options.part, "Only part K of N, K from 1")
      ->type_name("K/N")
      ->needs(captions)
      ->group(group);
  command.add_option("--first", options.first, "Only the first so many captions")
      ->check(CLI::Validator(CLI::NonNegativeNumber).description(""))
      ->type_name("N")
      ->needs(captions)
      ->group(group);
  command.add_option("--in-flight", options.in_flight, "Images asked for at the same time")
      ->check(CLI::Range(1, kMaxInFlight))
      ->type_name("N")
      ->needs(captions)
      ->capture_default_str()
      ->group(group);
}

absl::StatusOr<NumberRange> RangeOfPart(const std::string& part, int count) {
  if (part.empty()) return NumberRange{0, count};
  const std::vector<std::string> numbers = absl::StrSplit(part, '/');
  int64_t k = 0;
  int64_t n = 0;
  if (numbers.size() != 2 || !absl::SimpleAtoi(numbers[0], &k) ||
      !absl::SimpleAtoi(numbers[1], &n) || k < 1 || k > n || n > INT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("--part: \"", part, "\" is not K/N with 1 <= K <= N"));
  }
  return NumberRange{static_cast<int>((k - 1) * count / n), static_cast<int>(k * count / n)};
}

absl::StatusOr<CaptionPlan> PlanCaptions(const CaptionOptions& options,
                                         const GenerateOptions& generate, const std::string& out) {
  if (absl::Status status = CheckOptions(generate); !status.ok()) return status;
  auto pattern = ParseOut(out);
  if (!pattern.ok()) return pattern.status();
  auto captions = ReadCaptions(options.file);
  if (!captions.ok()) return captions.status();
  CaptionPlan plan{.captions = *std::move(captions),
                   .first_seed = generate.seed.value_or(0),
                   .out = *std::move(pattern),
                   .missing = {},
                   .record_path = {},
                   .record = {}};
  const int all = static_cast<int>(plan.captions.size());
  if (options.first > all) {
    return absl::InvalidArgumentError(absl::StrCat("--first: ", options.first, ", but ",
                                                   options.file, " has ", all, " captions"));
  }
  const auto range = RangeOfPart(options.part, options.first > 0 ? options.first : all);
  if (!range.ok()) return range.status();
  const std::string ext = FileExtension(generate.format);
  const auto path_of = [&](int number) {
    return plan.out.Expand(
        {.prompt = number, .seed = plan.first_seed + static_cast<uint64_t>(number), .ext = ext});
  };
  for (int number = range->begin; number < range->end; ++number) {
    if (std::filesystem::is_regular_file(path_of(number))) {
      ++plan.present;
    } else {
      plan.missing.push_back(number);
    }
  }
  plan.record_path = (std::filesystem::path(path_of(0)).parent_path() / kRecordName).string();
  const auto record = Record(plan, generate);
  if (!record.ok()) return record.status();
  plan.record = record->dump(1) + "\n";
  if (absl::Status status = CheckRecord(plan, *record); !status.ok()) return status;
  return plan;
}

}  // namespace patchflow

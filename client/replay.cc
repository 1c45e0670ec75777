#include "client/replay.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/picture_file.h"

namespace patchflow {
namespace {

// The plan, without which the same request may give other bytes; in the order in which to ask.
constexpr std::array kPlanFields = {"model_digest", "build", "arithmetic", "dtype",
                                    "layout",       "batch", "software"};

bool IsPlanField(std::string_view field) {
  return std::find(kPlanFields.begin(), kPlanFields.end(), field) != kPlanFields.end();
}

class TextReader {
 public:
  explicit TextReader(const ImageTexts& texts) : texts_(texts) {}

  std::string Text(const std::string& field) {
    const auto found = texts_.find(field);
    if (found != texts_.end()) return found->second;
    wrong_.push_back(absl::StrCat(field, ": not told"));
    return "";
  }
  template <typename Number>
  Number Integer(const std::string& field) {
    Number number = 0;
    const std::string text = Text(field);
    if (!text.empty() && !absl::SimpleAtoi(text, &number)) Unreadable(field, text);
    return number;
  }
  float Float(const std::string& field) {
    float number = 0;
    const std::string text = Text(field);
    if (!text.empty() && !absl::SimpleAtof(text, &number)) Unreadable(field, text);
    return number;
  }
  absl::Status status() const {
    if (wrong_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("its metadata does not say how it was made (see generate --embed-metadata): ",
                     absl::StrJoin(wrong_, ", ")));
  }

 private:
  void Unreadable(const std::string& field, const std::string& text) {
    wrong_.push_back(absl::StrCat(field, ": \"", text.substr(0, 40), "\" is no number"));
  }

  const ImageTexts& texts_;
  std::vector<std::string> wrong_;
};

std::string ValueOf(const ImageTexts& texts, const std::string& field) {
  const auto found = texts.find(field);
  return found == texts.end() ? "" : found->second;
}

// The plan's fields first, its digest last of all.
std::vector<TextDifference> DifferencesOf(const ImageTexts& then, const ImageTexts& now) {
  std::vector<std::string> fields(kPlanFields.begin(), kPlanFields.end());
  std::set<std::string> others;
  for (const ImageTexts* texts : {&then, &now}) {
    for (const auto& [field, value] : *texts) {
      if (!IsPlanField(field) && field != "plan_digest") others.insert(field);
    }
  }
  fields.insert(fields.end(), others.begin(), others.end());
  fields.emplace_back("plan_digest");
  std::vector<TextDifference> differences;
  for (const std::string& field : fields) {
    TextDifference difference{field, ValueOf(then, field), ValueOf(now, field)};
    if (difference.then != difference.now) differences.push_back(std::move(difference));
  }
  return differences;
}

void ComparePixels(const RgbPixels& then, const RgbPixels& now, Comparison& comparison) {
  comparison.total = then.bytes.size();
  comparison.same_size = then.width == now.width && then.height == now.height;
  if (!comparison.same_size) return;
  double squares = 0;
  for (size_t i = 0; i < then.bytes.size(); ++i) {
    const int difference = std::abs(int{then.bytes[i]} - int{now.bytes[i]});
    comparison.different += difference != 0 ? 1 : 0;
    comparison.largest = std::max(comparison.largest, difference);
    squares += static_cast<double>(difference) * difference;
  }
  if (comparison.different > 0) {
    comparison.psnr_db =
        10 * std::log10(255.0 * 255.0 * static_cast<double>(then.bytes.size()) / squares);
  }
}

std::string PictureLine(const Comparison& comparison) {
  if (comparison.same_picture()) return "the same picture, in another file";
  if (!comparison.same_size) return "another picture: its size differs";
  return absl::StrFormat(
      "another picture: %.2f %% of its bytes differ, by at most %d, %.1f dB",
      100.0 * static_cast<double>(comparison.different) / static_cast<double>(comparison.total),
      comparison.largest, comparison.psnr_db);
}

}  // namespace

absl::StatusOr<v1::GenerateImagesRequest> RequestOfTexts(const ImageTexts& texts,
                                                         v1::ImageFormat format,
                                                         absl::Duration timeout) {
  TextReader reader(texts);
  v1::GenerateImagesRequest request;
  request.set_model(reader.Text("model"));
  request.mutable_prompt()->set_text(reader.Text("prompt"));
  if (const std::string negative = ValueOf(texts, "negative_prompt"); !negative.empty()) {
    request.mutable_prompt()->set_negative_text(negative);
  }
  request.mutable_image()->set_width(reader.Integer<int32_t>("width"));
  request.mutable_image()->set_height(reader.Integer<int32_t>("height"));
  request.mutable_image()->set_count(1);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_steps(reader.Integer<int32_t>("steps"));
  sampling.set_guidance_scale(reader.Float("guidance_scale"));
  sampling.set_seed(reader.Integer<uint64_t>("seed"));
  sampling.set_scheduler(reader.Text("scheduler"));
  request.mutable_output()->set_format(format);
  if (format != v1::IMAGE_FORMAT_PNG) {
    request.mutable_output()->set_quality(reader.Integer<int32_t>("quality"));
  }
  request.mutable_output()->set_embed_metadata(true);
  request.mutable_scheduling()->mutable_timeout()->set_seconds(
      std::max<int64_t>(1, absl::ToInt64Seconds(timeout)));
  if (absl::Status status = reader.status(); !status.ok()) return status;
  return request;
}

absl::StatusOr<Comparison> CompareImages(std::string_view then, std::string_view now) {
  Comparison comparison;
  comparison.same_file = then == now;
  std::array<ImageTexts, 2> texts;
  std::array<RgbPixels, 2> pixels;
  const std::array files = {then, now};
  for (size_t i = 0; i < files.size(); ++i) {
    auto read = PictureTexts(files[i]);
    auto decoded = DecodePicture(files[i]);
    const absl::Status status = read.ok() ? decoded.status() : read.status();
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(i == 1 ? "the image made again: " : "", std::string(status.message())));
    }
    texts[i] = *std::move(read);
    pixels[i] = *std::move(decoded);
  }
  comparison.texts = DifferencesOf(texts[0], texts[1]);
  ComparePixels(pixels[0], pixels[1], comparison);
  return comparison;
}

std::string RenderComparison(const Comparison& comparison) {
  if (comparison.same_file) return "identical";
  std::string text = PictureLine(comparison);
  bool plan = false;
  const auto or_nothing = [](const std::string& value) { return value.empty() ? "-" : value; };
  for (const TextDifference& difference : comparison.texts) {
    plan = plan || IsPlanField(difference.field) || difference.field == "plan_digest";
    absl::StrAppend(&text, "\n  ", difference.field, ": ", or_nothing(difference.then), " -> ",
                    or_nothing(difference.now));
  }
  if (!comparison.same_picture() && !plan) {
    absl::StrAppend(&text, "\n  the plan is the same: this should not be");
  }
  return text;
}

nlohmann::json ComparisonJson(const Comparison& comparison) {
  nlohmann::json json = {{"identical", comparison.same_file},
                         {"same_picture", comparison.same_picture()},
                         {"differences", nlohmann::json::array()}};
  for (const TextDifference& difference : comparison.texts) {
    json["differences"].push_back(
        {{"field", difference.field}, {"then", difference.then}, {"now", difference.now}});
  }
  if (!comparison.same_picture() && comparison.same_size) {
    json["different"] = comparison.different;
    json["total"] = comparison.total;
    json["largest"] = comparison.largest;
    json["psnr_db"] = comparison.psnr_db;
  }
  return json;
}

}  // namespace patchflow

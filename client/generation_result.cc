#include "client/generation_result.h"

#include <google/protobuf/util/json_util.h>

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/server_error.h"

namespace patchflow {
namespace {

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos();
}

nlohmann::json ImageJson(const SavedImage& image) {
  const v1::ImageHeader& header = image.header;
  return {{"path", image.path},
          {"index", header.image_index()},
          {"seed", header.seed()},
          {"width", header.width()},
          {"height", header.height()},
          {"format", FileExtension(header.format())},
          {"bytes", header.total_bytes()},
          {"sha256", absl::BytesToHexString(header.sha256())},
          {"seconds", absl::ToDoubleSeconds(image.after)}};
}

void AddAccepted(const v1::Accepted& accepted, nlohmann::json& json) {
  json["effective"] = MessageJson(accepted.effective());
  json["effective"]["seed"] =
      accepted.effective().seed();  // A number, as elsewhere, not proto JSON's string.
  json["plan_digest"] = accepted.plan_digest();
  json["server_instance"] = accepted.server_instance();
  json["cost"] = {{"steps", accepted.cost().steps()}, {"pixels", accepted.cost().pixels()}};
  if (accepted.cost().has_gpu_time())
    json["cost"]["gpu_seconds"] = Seconds(accepted.cost().gpu_time());
}

void AddCompleted(const v1::Completed& completed, nlohmann::json& json) {
  json["timings"] = nlohmann::json::object();
  for (const v1::StageTiming& timing : completed.timings()) {
    json["timings"][timing.stage()] = Seconds(timing.duration());
  }
  json["attempts"] = completed.attempts();
  json["peak_gpu_memory_bytes"] = completed.peak_gpu_memory_bytes();
  json["server_version"] = completed.server_version();
}

}  // namespace

std::string ImageLine(const SavedImage& image) {
  return absl::StrFormat("%s  %dx%d  seed %d  %.2f s", image.path, image.header.width(),
                         image.header.height(), image.header.seed(),
                         absl::ToDoubleSeconds(image.after));
}

std::string DoneLine(const GenerationResult& result) {
  std::string line = absl::StrFormat("done in %.2f s", absl::ToDoubleSeconds(result.elapsed));
  if (!result.completed) return line;
  const char* separator = ": ";
  for (const v1::StageTiming& timing : result.completed->timings()) {
    absl::StrAppendFormat(&line, "%s%s %.2f", separator, timing.stage(),
                          Seconds(timing.duration()));
    separator = ", ";
  }
  return line;
}

nlohmann::json ResultJson(const GenerationResult& result) {
  nlohmann::json json = {{"request_id", result.request_id},
                         {"status", "OK"},
                         {"seconds", absl::ToDoubleSeconds(result.elapsed)},
                         {"retries", result.retries},
                         {"images", nlohmann::json::array()}};
  if (result.prompt) json["prompt"] = *result.prompt;
  if (!result.status.ok()) json.update(ErrorJson(result.status));
  for (const SavedImage& image : result.images) json["images"].push_back(ImageJson(image));
  if (result.accepted) AddAccepted(*result.accepted, json);
  if (result.completed) AddCompleted(*result.completed, json);
  return json;
}

nlohmann::json MessageJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return nullptr;
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string JsonLine(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string FileExtension(v1::ImageFormat format) {
  switch (format) {
    case v1::IMAGE_FORMAT_JPEG:
      return "jpg";
    case v1::IMAGE_FORMAT_WEBP:
      return "webp";
    case v1::IMAGE_FORMAT_RAW_RGB8:
      return "rgb";
    default:
      return "png";
  }
}

}  // namespace patchflow

#include "client/shared_options.h"

#include <CLI/Validators.hpp>
#include <map>

namespace patchflow {

void AddRequestIdOption(CLI::App& command, std::string& request_id) {
  command.add_option("request_id", request_id, "Name of the request")
      ->type_name("REQUEST_ID")
      ->required();
}

void AddModelOption(CLI::App& command, std::string& model, const std::string& group) {
  command.add_option("-m,--model", model, "Name of the model; needed if there are several")
      ->group(group);
}

void AddPriorityOption(CLI::App& command, v1::Priority& priority, const std::string& group) {
  const std::map<std::string, v1::Priority> priorities = {
      {"low", v1::PRIORITY_LOW}, {"normal", v1::PRIORITY_NORMAL}, {"high", v1::PRIORITY_HIGH}};
  command.add_option("--priority", priority, "low, normal (the default) or high")
      ->transform(CLI::CheckedTransformer(priorities, CLI::ignore_case).description(""))
      ->type_name("CLASS")
      ->group(group);
}

void AddFormatOption(CLI::App& command, v1::ImageFormat& format, const std::string& group,
                     const std::string& help) {
  const std::map<std::string, v1::ImageFormat> formats = {{"png", v1::IMAGE_FORMAT_PNG},
                                                          {"jpeg", v1::IMAGE_FORMAT_JPEG},
                                                          {"webp", v1::IMAGE_FORMAT_WEBP},
                                                          {"raw", v1::IMAGE_FORMAT_RAW_RGB8}};
  command.add_option("--format", format, help)
      ->transform(CLI::CheckedTransformer(formats, CLI::ignore_case).description(""))
      ->type_name("FORMAT")
      ->group(group);
}

}  // namespace patchflow

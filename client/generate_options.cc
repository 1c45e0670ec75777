#include "client/generate_options.h"

#include <CLI/Validators.hpp>
#include <map>
#include <random>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/shared_options.h"
#include "client/text_file.h"

namespace patchflow {
namespace {

constexpr uint64_t kMaxSeed = (uint64_t{1} << 53) - 1;

uint64_t RandomBits() {
  std::random_device random;
  return (uint64_t{random()} << 32) | random();
}

absl::Status SetSize(const GenerateOptions& options, v1::GenerateImagesRequest& request) {
  if (options.width) request.mutable_image()->set_width(*options.width);
  if (options.height) request.mutable_image()->set_height(*options.height);
  if (options.size.empty()) return absl::OkStatus();
  if (options.width || options.height) {
    return absl::InvalidArgumentError("--size: give it or --width and --height, not both");
  }
  const std::vector<std::string> sides = absl::StrSplit(options.size, 'x');
  int32_t width = 0;
  int32_t height = 0;
  if (sides.size() != 2 || !absl::SimpleAtoi(sides[0], &width) ||
      !absl::SimpleAtoi(sides[1], &height)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--size: \"", options.size, "\" is not WIDTHxHEIGHT"));
  }
  request.mutable_image()->set_width(width);
  request.mutable_image()->set_height(height);
  return absl::OkStatus();
}

}  // namespace

std::string RandomRequestId() {
  const uint64_t high = (RandomBits() & ~uint64_t{0xF000}) | 0x4000;
  const uint64_t low = (RandomBits() >> 2) | (uint64_t{1} << 63);
  return absl::StrFormat("%08x-%04x-%04x-%04x-%012x", high >> 32, (high >> 16) & 0xFFFF,
                         high & 0xFFFF, low >> 48, low & 0xFFFFFFFFFFFF);
}

void AddGenerateOptions(CLI::App& command, GenerateOptions& options) {
  const std::map<std::string, v1::DisconnectPolicy> policies = {
      {"cancel", v1::DISCONNECT_POLICY_CANCEL}, {"detach", v1::DISCONNECT_POLICY_DETACH}};
  command.add_option("prompt", options.prompt, "What to draw")->type_name("PROMPT");
  command
      .add_option("-f,--file", options.file,
                  "Draw each line of this file; - reads the standard input")
      ->type_name("FILE");

  const std::string image = "Image (what is not given is the model's default)";
  AddModelOption(command, options.model, image);
  command.add_option("--size", options.size, "Pixels, multiples of 16")
      ->type_name("WxH")
      ->group(image);
  command.add_option("--width", options.width, "Pixels")->type_name("PX")->group(image);
  command.add_option("--height", options.height, "Pixels")->type_name("PX")->group(image);
  command.add_option("-n,--count", options.count, "Images for each prompt, with seeds counting up")
      ->type_name("N")
      ->group(image);
  command.add_option("--steps", options.steps, "Denoising steps")->type_name("N")->group(image);
  command
      .add_option("--guidance", options.guidance,
                  "Classifier-free guidance; 1 runs the prompt alone")
      ->type_name("SCALE")
      ->group(image);
  command
      .add_option("--seed", options.seed, "Of the first image of each prompt; random if not given")
      ->check(CLI::Validator(CLI::NonNegativeNumber).description(""))
      ->type_name("N")
      ->group(image);
  command.add_option("--negative", options.negative, "What not to draw")
      ->type_name("PROMPT")
      ->group(image);
  command
      .add_option("--scheduler", options.scheduler,
                  "A sampler that the model has (patchflow models)")
      ->type_name("NAME")
      ->group(image);

  const std::string file = "File";
  AddFormatOption(command, options.format, file,
                  "png (the default), jpeg, webp or raw (rows of 8-bit RGB)");
  command.add_option("--quality", options.quality, "1 to 100, for jpeg and webp")
      ->type_name("N")
      ->group(file);
  command
      .add_flag("--embed-metadata", options.embed_metadata,
                "Write prompt, seed and parameters into the file")
      ->group(file);

  const std::string treatment = "Treatment";
  AddPriorityOption(command, options.priority, treatment);
  command
      .add_option("--on-disconnect", options.on_disconnect,
                  "What becomes of the work if this program goes away: cancel (the default), or "
                  "detach, so that "
                  "'patchflow fetch' can get the images")
      ->transform(CLI::CheckedTransformer(policies, CLI::ignore_case).description(""))
      ->type_name("POLICY")
      ->group(treatment);
  command
      .add_option("--request-id", options.request_id, "Name of the request; random if not given")
      ->type_name("ID")
      ->group(treatment);
  command
      .add_flag("--validate-only", options.validate_only, "Have the request checked, draw nothing")
      ->group(treatment);
  command
      .add_option("--chunk-bytes", options.chunk_bytes,
                  "Bytes in a message of image data, up to 1048576")
      ->type_name("N")
      ->group(treatment);
}

absl::StatusOr<std::vector<std::string>> ReadPrompts(const GenerateOptions& options) {
  if (options.prompt.has_value() == !options.file.empty()) {
    return absl::InvalidArgumentError("give a prompt, or a file of prompts by --file");
  }
  if (options.negative) {
    if (absl::Status status = CheckUtf8("--negative", *options.negative); !status.ok())
      return status;
  }
  if (!options.prompt) return ReadLines("--file", options.file);
  if (absl::Status status = CheckUtf8("prompt", *options.prompt); !status.ok()) return status;
  return std::vector<std::string>{*options.prompt};
}

absl::StatusOr<v1::GenerateImagesRequest> BuildRequest(const GenerateOptions& options,
                                                       const std::string& prompt,
                                                       absl::Duration timeout) {
  v1::GenerateImagesRequest request;
  request.set_request_id(options.request_id.empty() ? RandomRequestId() : options.request_id);
  request.set_model(options.model);
  request.mutable_prompt()->set_text(prompt);
  if (options.negative) request.mutable_prompt()->set_negative_text(*options.negative);
  if (absl::Status status = SetSize(options, request); !status.ok()) return status;
  if (options.count) request.mutable_image()->set_count(*options.count);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  if (options.steps) sampling.set_steps(*options.steps);
  if (options.guidance) sampling.set_guidance_scale(*options.guidance);
  sampling.set_seed(options.seed ? *options.seed : RandomBits() & kMaxSeed);
  if (options.scheduler) sampling.set_scheduler(*options.scheduler);
  request.mutable_output()->set_format(options.format);
  if (options.quality) request.mutable_output()->set_quality(*options.quality);
  request.mutable_output()->set_embed_metadata(options.embed_metadata);
  request.mutable_stream()->set_max_chunk_bytes(options.chunk_bytes);
  v1::SchedulingHints& scheduling = *request.mutable_scheduling();
  scheduling.set_priority(options.priority);
  scheduling.set_on_disconnect(options.on_disconnect);
  scheduling.mutable_timeout()->set_seconds(absl::ToInt64Seconds(timeout));
  scheduling.mutable_timeout()->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(timeout - absl::Seconds(absl::ToInt64Seconds(timeout)))));
  request.set_validate_only(options.validate_only);
  return request;
}

}  // namespace patchflow

#include "client/load_plan.h"

#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/text_file.h"

namespace patchflow {
namespace {

constexpr uint64_t kMaxSeed = (uint64_t{1} << 53) - 1;
constexpr int kMaxConcurrency = 10000;
constexpr double kMaxRate = 1e5;

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): each
// request draws from a stream of its own.
class Draw {
 public:
  Draw(uint64_t seed, int64_t number, uint64_t purpose)
      : state_(seed * 0xD1342543DE82EF95U + static_cast<uint64_t>(number) * 2 + purpose) {
    Bits();
  }
  uint64_t Bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  double Unit() { return static_cast<double>(Bits() >> 11) * 0x1p-53; }  // [0, 1)

 private:
  uint64_t state_;
};

template <typename... Parts>
absl::Status Wrong(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::StatusOr<absl::Duration> ParseTime(const char* option, const std::string& text,
                                         bool zero_is_fine) {
  double seconds = 0;
  absl::Duration time;
  if (absl::SimpleAtod(text, &seconds)) {
    time = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &time)) {
    return Wrong(option, ": \"", text, "\" is not a time such as 90, 1.5s, 10m");
  }
  if (std::isnan(seconds) || time < absl::ZeroDuration() || time > absl::Hours(24 * 30) ||
      (time == absl::ZeroDuration() && !zero_is_fine)) {
    return Wrong(option, ": ", text, " is not ", zero_is_fine ? "0 or more" : "above 0",
                 " and at most 30 days");
  }
  return time;
}

absl::StatusOr<LoadShape> ParseShape(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  const std::vector<std::string> sides = absl::StrSplit(parts[0], 'x');
  LoadShape shape;
  if (parts.size() < 2 || parts.size() > 3 || sides.size() != 2 ||
      !absl::SimpleAtoi(sides[0], &shape.width_px) ||
      !absl::SimpleAtoi(sides[1], &shape.height_px) || !absl::SimpleAtoi(parts[1], &shape.steps) ||
      (parts.size() == 3 && !absl::SimpleAtod(parts[2], &shape.weight))) {
    return Wrong("--mix: \"", text, "\" is not WxH:STEPS or WxH:STEPS:WEIGHT");
  }
  if (shape.width_px < 1 || shape.height_px < 1 || shape.steps < 1 ||
      !(shape.weight > 0 && std::isfinite(shape.weight))) {
    return Wrong("--mix: \"", text, "\" has a number that is not above 0");
  }
  return shape;
}

absl::Status CheckShares(const LoadOptions& options) {
  const std::pair<const char*, double> shares[] = {{"--cancels", options.cancels},
                                                   {"--cancel-calls", options.cancel_calls},
                                                   {"--disconnects", options.disconnects},
                                                   {"--deadlines", options.deadlines}};
  double sum = 0;
  for (const auto& [option, share] : shares) {
    if (!(share >= 0 && share <= 1)) return Wrong(option, ": ", share, " is not from 0 to 1");
    sum += share;
  }
  if (sum > 1 + 1e-9) {
    return Wrong("--cancels, --cancel-calls, --disconnects, --deadlines: together ", sum,
                 ", more than 1");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<LoadLevel>> LevelsOf(const LoadOptions& options) {
  if (options.rates.empty() == options.concurrencies.empty())
    return Wrong("give --concurrency or --rate, one of them");
  std::vector<LoadLevel> levels;
  for (double rate : options.rates) {
    if (!(rate > 0 && rate <= kMaxRate))
      return Wrong("--rate: ", rate, " is not above 0 and at most ", kMaxRate);
    levels.push_back({.rate_hz = rate});
  }
  for (int clients : options.concurrencies) {
    if (clients < 1 || clients > kMaxConcurrency)
      return Wrong("--concurrency: ", clients, " is not from 1 to ", kMaxConcurrency);
    levels.push_back({.concurrency = clients});
  }
  return levels;
}

absl::Status CheckCounts(const LoadOptions& options) {
  if (options.duration.empty() == (options.requests == 0))
    return Wrong("give --duration or --requests, one of them");
  if (options.requests < 0) return Wrong("--requests: ", options.requests, " is not above 0");
  if (options.images < 1) return Wrong("--images: ", options.images, " is not above 0");
  if (options.connections < 1 || options.connections > 1000)
    return Wrong("--connections: ", options.connections, " is not from 1 to 1000");
  if (options.max_in_flight < 1)
    return Wrong("--max-in-flight: ", options.max_in_flight, " is not above 0");
  return absl::OkStatus();
}

absl::Status ReadTimes(LoadPlan& plan) {
  const LoadOptions& options = plan.options;
  struct Time {
    const char* option;
    const std::string& text;
    absl::Duration& time;
    bool zero_is_fine;
  };
  for (const Time& time : {Time{"--warm-up", options.warm_up, plan.warm_up, true},
                           Time{"--within", options.within, plan.within, false},
                           Time{"--limit", options.limit, plan.limit, false},
                           Time{"--duration", options.duration, plan.duration, false}}) {
    if (time.text.empty()) continue;
    auto parsed = ParseTime(time.option, time.text, time.zero_is_fine);
    if (!parsed.ok()) return parsed.status();
    time.time = *parsed;
  }
  return absl::OkStatus();
}

}  // namespace

const char* LoadEndingName(LoadEnding ending) {
  switch (ending) {
    case LoadEnding::kWait:
      return "wait";
    case LoadEnding::kCancel:
      return "cancel";
    case LoadEnding::kCancelCall:
      return "cancel_call";
    case LoadEnding::kDisconnect:
      return "disconnect";
    case LoadEnding::kDeadline:
      return "deadline";
  }
  return "";
}

absl::StatusOr<LoadPlan> MakeLoadPlan(const LoadOptions& options) {
  LoadPlan plan;
  plan.options = options;
  auto levels = LevelsOf(options);
  if (!levels.ok()) return levels.status();
  plan.levels = *std::move(levels);
  for (const absl::Status& status : {CheckCounts(options), CheckShares(options), ReadTimes(plan)}) {
    if (!status.ok()) return status;
  }
  for (const std::string& text : options.mix) {
    auto shape = ParseShape(text);
    if (!shape.ok()) return shape.status();
    plan.shapes.push_back(*shape);
  }
  if (plan.shapes.empty()) plan.shapes.emplace_back();
  if (!options.prompts.empty()) {
    auto prompts = ReadLines("--prompts", options.prompts);
    if (!prompts.ok()) return prompts.status();
    plan.prompts = *std::move(prompts);
  }
  plan.id_prefix = absl::StrFormat("load-%08x-", std::random_device()());
  return plan;
}

PlannedRequest LoadPlan::RequestOf(int64_t number) const {
  Draw draw(options.seed, number, 0);
  PlannedRequest planned;
  v1::GenerateImagesRequest& request = planned.request;
  request.set_request_id(absl::StrCat(id_prefix, number));
  request.set_model(options.model);
  request.mutable_prompt()->set_text(prompts.empty()
                                         ? absl::StrCat("load test ", number)
                                         : prompts[static_cast<size_t>(number) % prompts.size()]);
  request.mutable_sampling()->set_seed(draw.Bits() & kMaxSeed);
  double total = 0;
  for (const LoadShape& shape : shapes) total += shape.weight;
  double at = draw.Unit() * total;
  size_t chosen = 0;
  while (chosen + 1 < shapes.size() && at >= shapes[chosen].weight) at -= shapes[chosen++].weight;
  if (const LoadShape& shape = shapes[chosen]; shape.steps > 0) {
    request.mutable_image()->set_width(shape.width_px);
    request.mutable_image()->set_height(shape.height_px);
    request.mutable_sampling()->set_steps(shape.steps);
  }
  if (options.images > 1) request.mutable_image()->set_count(options.images);
  request.mutable_output()->set_format(options.format);
  request.mutable_scheduling()->set_priority(options.priority);

  double share = draw.Unit();
  for (const auto& [ending, part] : {std::pair{LoadEnding::kCancel, options.cancels},
                                     {LoadEnding::kCancelCall, options.cancel_calls},
                                     {LoadEnding::kDisconnect, options.disconnects},
                                     {LoadEnding::kDeadline, options.deadlines}}) {
    if (share >= 0 && share < part) planned.ending = ending;
    share -= part;
  }
  planned.leave_after = draw.Unit() * within;
  return planned;
}

absl::Duration LoadPlan::GapBefore(int64_t number, double rate_hz) const {
  return absl::Seconds(-std::log1p(-Draw(options.seed, number, 1).Unit()) / rate_hz);
}

}  // namespace patchflow

#include "client/usage_sums.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

using nlohmann::json;

void AddCall(const json& record, Usage& usage) {
  const bool ok = record.at("code").get<std::string>() == "OK";
  ++usage.calls;
  usage.failed += ok ? 0 : 1;
}

void AddGeneration(const json& record, Usage& usage) {
  const int64_t images = record.value("images", int64_t{0});
  ++usage.generations;
  usage.images += images;
  usage.megapixel_steps += static_cast<double>(images) * record.value("steps", 0.0) *
                           record.value("width", 0.0) * record.value("height", 0.0) / 1e6;
  usage.device_seconds += record.value("device_seconds", 0.0);
  usage.image_bytes += record.value("image_bytes", int64_t{0});
}

}  // namespace

void UsageSums::Unreadable::Note(std::string place) {
  ++lines;
  if (places.size() < kPlaces) places.push_back(std::move(place));
}

void UsageSums::Unreadable::Add(const Unreadable& other) {
  lines += other.lines;
  for (size_t i = 0; i < other.places.size() && places.size() < kPlaces; ++i) {
    places.push_back(other.places[i]);
  }
}

bool UsageSums::AddLine(const std::string& line, bool& old) {
  const json record = json::parse(line, nullptr, false);
  try {
    const std::string event = record.at("event");
    // Times are of one length and zone, so their order is that of their text.
    old = record.at("time").get<std::string>() < since_;
    const bool call = event == "call";
    if (event == "lost") {
      const int64_t lines = record.at("lines");
      lost_lines_ += old ? 0 : lines;
    } else if (call || event == "generation") {
      const std::string identity = record.at("identity");
      const auto known = identities_.find(identity);
      Usage usage = known == identities_.end() ? Usage() : known->second;
      (call ? AddCall : AddGeneration)(record, usage);
      if (!old) identities_[identity] = usage;
    }
  } catch (const json::exception&) {
    return false;
  }
  return true;
}

absl::Status UsageSums::Add(std::istream& log, const std::string& name) {
  Unreadable undated;
  std::string line;
  for (int64_t number = 1; std::getline(log, line); ++number) {
    if (line.empty()) continue;
    bool old = false;
    if (!AddLine(line, old)) {
      undated.Note(absl::StrCat(name, ":", number));
      continue;
    }
    if (!old) unreadable_.Add(undated);
    undated = {};
  }
  unreadable_.Add(undated);
  return log.bad() ? absl::UnavailableError(absl::StrCat("can't read ", name)) : absl::OkStatus();
}

}  // namespace patchflow

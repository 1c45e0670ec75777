#include "server/stored_spec.h"

#include <nlohmann/json.hpp>

#include "google/rpc/status.pb.h"
#include "server/version.h"

namespace patchflow {
namespace {

using nlohmann::json;

json Binary(const std::string& bytes) {
  return json::binary(std::vector<uint8_t>(bytes.begin(), bytes.end()));
}

std::string BytesOf(const json& value) {
  const auto& bytes = value.get_binary();
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::string SerializeSpec(const GenerationSpec& spec) {
  const json stored{{"request_id", spec.request_id},
                    {"owner", spec.owner.name},
                    {"client", spec.owner.client},
                    {"high_priority", spec.owner.high_priority},
                    {"fingerprint", Binary(spec.fingerprint)},
                    {"prompt", spec.prompt},
                    {"negative_prompt", spec.negative_prompt},
                    {"embed_metadata", spec.embed_metadata},
                    {"software", spec.software},
                    {"provenance_mark", spec.provenance_mark},
                    {"preview_every_steps", spec.preview_every_steps},
                    {"preview_max_edge", spec.preview_max_edge},
                    {"priority", static_cast<int>(spec.priority)},
                    {"accepted", Binary(spec.accepted.SerializeAsString())},
                    {"ranks", spec.ranks}};
  const std::vector<uint8_t> bytes = json::to_cbor(stored);
  return {bytes.begin(), bytes.end()};
}

absl::StatusOr<GenerationSpec> ParseSpec(const std::string& bytes) {
  try {
    const json stored = json::from_cbor(bytes);
    GenerationSpec spec;
    spec.request_id = stored.at("request_id");
    spec.owner = {stored.at("owner"), stored.at("client"), stored.at("high_priority")};
    spec.fingerprint = BytesOf(stored.at("fingerprint"));
    spec.prompt = stored.at("prompt");
    spec.negative_prompt = stored.at("negative_prompt");
    spec.embed_metadata = stored.at("embed_metadata");
    // What an earlier version wrote has neither.
    spec.software = stored.value("software", SoftwareName());
    spec.provenance_mark = stored.value("provenance_mark", true);
    spec.preview_every_steps = stored.at("preview_every_steps");
    spec.preview_max_edge = stored.at("preview_max_edge");
    spec.priority = static_cast<v1::Priority>(stored.at("priority").get<int>());
    spec.ranks = stored.at("ranks");
    if (spec.accepted.ParseFromString(BytesOf(stored.at("accepted")))) {
      return spec;
    }
  } catch (const json::exception&) {
    // As below.
  }
  return absl::DataLossError("a stored generation cannot be read");
}

std::string SerializeStatus(const absl::Status& status) {
  google::rpc::Status stored;
  stored.set_code(static_cast<int>(status.code()));
  stored.set_message(std::string(status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    auto* detail = stored.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(payload));
  });
  return stored.SerializeAsString();
}

bool ParseStatus(const std::string& bytes, absl::Status& status) {
  google::rpc::Status stored;
  if (!stored.ParseFromString(bytes)) {
    return false;
  }
  status = absl::Status(static_cast<absl::StatusCode>(stored.code()), stored.message());
  for (const auto& detail : stored.details()) {
    status.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return true;
}

}  // namespace patchflow

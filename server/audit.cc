#include "server/audit.h"

#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/spdlog.h>

#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/line_writer.h"
#include "server/sha256.h"

namespace patchflow {
namespace {

constexpr size_t kQueuedLines = 8192;

class NoAudit final : public AuditLog {
  bool on() const override { return false; }
  void Write(const char* /*event*/, std::initializer_list<LogField> /*fields*/) override {}
};

class FileAudit final : public AuditLog {
 public:
  explicit FileAudit(const AuditConfig& config)
      : file_("audit", std::make_shared<spdlog::sinks::rotating_file_sink_st>(
                           config.file, static_cast<size_t>(config.max_bytes),
                           static_cast<size_t>(config.max_files))),
        writer_(kQueuedLines, LineWriter::Full::kWait,
                [this](const std::vector<std::string>& lines) {
                  for (const std::string& line : lines) {
                    file_.info(spdlog::string_view_t(line));
                  }
                  file_.flush();
                }) {
    file_.set_pattern("%v");
  }

 private:
  bool on() const override { return true; }
  void Write(const char* event, std::initializer_list<LogField> fields) override {
    writer_.Add(JsonLine({{"event", event}}, fields));
  }

  spdlog::logger file_;  // Of the writer's thread.
  LineWriter writer_;
};

double StageSeconds(const v1::Completed& completed, const char* stage) {
  for (const auto& timing : completed.timings()) {
    if (timing.stage() == stage) {
      return absl::ToDoubleSeconds(FromProto(timing.duration()));
    }
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const AuditConfig& config) {
  if (config.file.empty()) {
    return std::unique_ptr<AuditLog>(std::make_unique<NoAudit>());
  }
  try {
    return std::unique_ptr<AuditLog>(std::make_unique<FileAudit>(config));
  } catch (const spdlog::spdlog_ex& e) {
    return absl::UnavailableError(absl::StrCat("audit.file: ", e.what()));
  }
}

void AuditLog::Ended(const Generation& generation) {
  if (!on()) {
    return;
  }
  const GenerationSpec& spec = generation.spec();
  const v1::EffectiveParams& params = spec.params();
  const Standing standing = generation.standing();
  const double run_seconds = absl::ToDoubleSeconds(generation.run_time());
  Write("generation", {{"request_id", spec.request_id},
                       {"identity", spec.owner.name},
                       {"model", params.model()},
                       {"state", v1::State_Name(standing.state)},
                       {"code", absl::StatusCodeToString(standing.status.code())},
                       {"reason", ReasonOf(standing.status)},
                       {"prompt_sha256", absl::BytesToHexString(Sha256(spec.prompt))},
                       {"prompt_bytes", static_cast<int64_t>(spec.prompt.size())},
                       {"width", params.width()},
                       {"height", params.height()},
                       {"steps", params.steps()},
                       {"count", params.count()},
                       {"images", standing.images_done},
                       {"attempts", standing.attempt},
                       {"queue_seconds", StageSeconds(generation.completed(), "queue")},
                       {"run_seconds", run_seconds},
                       {"device_seconds", run_seconds * spec.ranks},
                       {"image_bytes", static_cast<int64_t>(generation.image_bytes())}});
}

}  // namespace patchflow

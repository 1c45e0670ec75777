#include "server/audit.h"

#include <atomic>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/audit_file.h"
#include "server/errors.h"
#include "server/line_writer.h"
#include "server/random.h"
#include "server/sha256.h"

namespace patchflow {
namespace {

constexpr size_t kQueuedLines = 32768;
constexpr size_t kForGenerations = kQueuedLines / 4;

class NoAudit final : public AuditLog {
  Figures figures() const override { return {}; }
  bool on() const override { return false; }
  void Write(const char* /*event*/, std::initializer_list<LogField> /*fields*/) override {}
};

// What the writer's thread holds: the file, and the lines that are missing from it.
class AuditSink {
 public:
  explicit AuditSink(std::unique_ptr<AuditFile> file) : file_(std::move(file)) {}

  void Lose() {
    ++lost_;
    ++untold_;
  }
  int64_t lost() const { return lost_; }

  // On the writer's thread, as LineWriter::Write.
  size_t Write(const std::vector<std::string>& lines) {
    const size_t written = TellLoss() ? file_->Append(lines) : 0;
    const bool failed = written < lines.size();
    if (failed && !failed_) {
      LogError("the audit log cannot be written", {{"why", file_->error()}});
    } else if (!failed && failed_) {
      LogInfo("the audit log is written again");
    }
    failed_ = failed;
    if (!failed) {
      if (const int64_t untold = untold_.exchange(0); untold > 0) {
        told_ = JsonLine({{"event", "lost"}}, {{"lines", untold}});
        TellLoss();
      }
    }
    return written;
  }

 private:
  // Whether nothing is left to be told. A line that was begun must be ended before another.
  bool TellLoss() {
    if (!told_.empty() && file_->Append({told_}) == 1) {
      told_.clear();
    }
    return told_.empty();
  }

  const std::unique_ptr<AuditFile> file_;
  std::atomic<int64_t> lost_ = 0;
  std::atomic<int64_t> untold_ = 0;
  std::string told_;  // The line that says so, until it is written.
  bool failed_ = false;
};

class FileAudit final : public AuditLog {
 public:
  FileAudit(std::unique_ptr<AuditFile> file, absl::Duration max_delay)
      : max_delay_(max_delay),
        sink_(std::make_shared<AuditSink>(std::move(file))),
        writer_(
            kQueuedLines, LineWriter::Full::kRefuse,
            [sink = sink_](const std::vector<std::string>& lines) { return sink->Write(lines); }) {}
  ~FileAudit() override {
    if (const size_t left = writer_.Stop(); left > 0) {
      LogError("the audit log is left behind", {{"lines", static_cast<int64_t>(left)}});
    }
  }

 private:
  Figures figures() const override {
    const LineWriter::Backlog backlog = writer_.backlog();
    const absl::Duration delay = absl::FromChrono(backlog.age);
    return {static_cast<int64_t>(backlog.lines), sink_->lost(), delay, delay > max_delay_};
  }
  bool on() const override { return true; }
  void Write(const char* event, std::initializer_list<LogField> fields) override {
    const bool generation = event == std::string_view("generation");
    if (!writer_.Add(JsonLine({{"event", event}}, fields), generation ? 0 : kForGenerations)) {
      sink_->Lose();
    }
  }

  const absl::Duration max_delay_;
  const std::shared_ptr<AuditSink> sink_;
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
  auto file = AuditFile::Open(config);
  if (!file.ok()) {
    return absl::UnavailableError(absl::StrCat("audit.file: ", file.status().message()));
  }
  return std::unique_ptr<AuditLog>(std::make_unique<FileAudit>(*std::move(file), config.max_delay));
}

absl::Status AuditLog::Ready() const {
  if (!figures().behind) {
    return absl::OkStatus();
  }
  return WithRetry(MakeError(absl::StatusCode::kUnavailable, reason::kAuditUnavailable,
                             "the audit log cannot be written at present"),
                   Jittered(absl::Seconds(1)));
}

void AuditLog::Ended(const Generation& generation) {
  if (!on()) {
    return;
  }
  const GenerationSpec& spec = generation.spec();
  const v1::EffectiveParams& params = spec.params();
  const Standing standing = generation.standing();
  const double run_seconds = absl::ToDoubleSeconds(generation.run_time());
  Write("generation",
        {{"request_id", spec.request_id},
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
         {"device_seconds", absl::ToDoubleSeconds(generation.own_time()) * spec.ranks},
         {"image_bytes", static_cast<int64_t>(generation.image_bytes())}});
}

}  // namespace patchflow

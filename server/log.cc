#include "server/log.h"

#include <nlohmann/json.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/line_writer.h"

namespace patchflow {
namespace {

constexpr size_t kQueuedLines = 8192;
constexpr std::array kLevels = {"debug", "info", "warning", "error"};
constexpr size_t kInfo = 1;

size_t WriteToStderr(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    absl::StrAppend(&text, line, "\n");
  }
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
  return lines.size();  // There is nobody to tell that they are not.
}

struct Log {
  LineWriter writer{kQueuedLines, LineWriter::Full::kDropOldest, WriteToStderr};
  std::atomic<size_t> level = kInfo;
  std::atomic<bool> prompts = false;
};

// Lives until the process ends, so that any thread may log at any time.
Log& TheLog() {
  static Log* log = new Log;
  return *log;
}

void Write(size_t level, const char* msg, std::initializer_list<LogField> fields) {
  Log& log = TheLog();
  if (level >= log.level) {
    log.writer.Add(JsonLine({{"level", kLevels.at(level)}, {"msg", msg}}, fields));
  }
}

bool IsPlain(const std::string& text) {
  for (const char c : text) {
    if (c < ' ' || c > '~' || c == '"' || c == '\\') {
      return false;
    }
  }
  return true;
}

void AppendString(const std::string& text, std::string& line) {
  if (IsPlain(text)) {
    absl::StrAppend(&line, "\"", text, "\"");
  } else {
    line += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
}

void AppendValue(const LogField& field, std::string& line) {
  std::visit(
      [&](const auto& value) {
        using Value = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<Value, std::string>) {
          AppendString(value, line);
        } else if constexpr (std::is_same_v<Value, bool>) {
          line += value ? "true" : "false";
        } else if constexpr (std::is_same_v<Value, int64_t>) {
          absl::StrAppend(&line, value);
        } else {
          line += nlohmann::json(value).dump();
        }
      },
      field.value);
}

}  // namespace

std::string JsonLine(std::initializer_list<LogField> first,
                     std::initializer_list<LogField> fields) {
  std::string line = absl::StrCat(
      "{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone()),
      "\"");
  for (const auto& list : {first, fields}) {
    for (const LogField& field : list) {
      absl::StrAppend(&line, ",\"", field.key, "\":");
      AppendValue(field, line);
    }
  }
  return line + "}";
}

void StartLog(const LogConfig& config) {
  TheLog().prompts = config.prompts;
  SetLogLevel(config.level);
}

bool SetLogLevel(const std::string& level) {
  for (size_t i = 0; i < kLevels.size(); ++i) {
    if (level == kLevels.at(i)) {
      TheLog().level = i;
      return true;
    }
  }
  return false;
}

std::string LogLevel() { return kLevels.at(TheLog().level); }

bool LogsPrompts() { return TheLog().prompts; }

bool LogsDebug() { return TheLog().level == 0; }

void LogDebug(const char* msg, std::initializer_list<LogField> fields) { Write(0, msg, fields); }

void LogInfo(const char* msg, std::initializer_list<LogField> fields) { Write(kInfo, msg, fields); }

void LogWarning(const char* msg, std::initializer_list<LogField> fields) { Write(2, msg, fields); }

void LogError(const char* msg, std::initializer_list<LogField> fields) { Write(3, msg, fields); }

void StopLog() { TheLog().writer.Flush(std::chrono::seconds(1)); }

}  // namespace patchflow

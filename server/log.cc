#include "server/log.h"

#include <spdlog/details/null_mutex.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <nlohmann/json.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/line_writer.h"

namespace patchflow {
namespace {

constexpr size_t kQueuedLines = 8192;
constexpr std::array kLevels = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                spdlog::level::err};

size_t WriteToStderr(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    absl::StrAppend(&text, line, "\n");
  }
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
  return lines.size();  // There is nobody to tell that they are not.
}

// Spares whoever logs what spdlog's own queue costs: a wake-up a line.
class QueuedSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
  void sink_it_(const spdlog::details::log_msg& line) override {
    writer_.Add(std::string(line.payload.data(), line.payload.size()));
  }
  void flush_() override { writer_.Flush(std::chrono::seconds(1)); }

  LineWriter writer_{kQueuedLines, LineWriter::Full::kDropOldest, WriteToStderr};
};

struct Log {
  spdlog::logger logger{"server", std::make_shared<QueuedSink>()};
  std::atomic<bool> prompts = false;
};

// Lives until the process ends, so that any thread may log at any time.
Log& TheLog() {
  static Log* log = new Log;
  return *log;
}

const char* NameOf(spdlog::level::level_enum level) {
  return spdlog::level::to_string_view(level).data();
}

void Write(spdlog::level::level_enum level, const char* msg,
           std::initializer_list<LogField> fields) {
  spdlog::logger& logger = TheLog().logger;
  if (logger.should_log(level)) {
    logger.log(level,
               spdlog::string_view_t(JsonLine({{"level", NameOf(level)}, {"msg", msg}}, fields)));
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
  for (const spdlog::level::level_enum known : kLevels) {
    if (level == NameOf(known)) {
      TheLog().logger.set_level(known);
      return true;
    }
  }
  return false;
}

std::string LogLevel() { return NameOf(TheLog().logger.level()); }

bool LogsPrompts() { return TheLog().prompts; }

bool LogsDebug() { return TheLog().logger.should_log(spdlog::level::debug); }

void LogDebug(const char* msg, std::initializer_list<LogField> fields) {
  Write(spdlog::level::debug, msg, fields);
}

void LogInfo(const char* msg, std::initializer_list<LogField> fields) {
  Write(spdlog::level::info, msg, fields);
}

void LogWarning(const char* msg, std::initializer_list<LogField> fields) {
  Write(spdlog::level::warn, msg, fields);
}

void LogError(const char* msg, std::initializer_list<LogField> fields) {
  Write(spdlog::level::err, msg, fields);
}

void StopLog() { TheLog().logger.flush(); }

}  // namespace patchflow

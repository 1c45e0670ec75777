#include "server/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/time/clock.h"

namespace patchflow {
namespace {

constexpr size_t kQueuedLines = 8192;

struct Log {
  std::shared_ptr<spdlog::details::thread_pool> writer;
  std::shared_ptr<spdlog::logger> logger;
  std::atomic<bool> prompts = false;
};

// Lives until the process ends, so that any thread may log at any time.
Log& TheLog() {
  static Log* log = [] {
    auto* made = new Log;
    made->writer = std::make_shared<spdlog::details::thread_pool>(kQueuedLines, 1);
    made->logger = std::make_shared<spdlog::async_logger>(
        "server", std::make_shared<spdlog::sinks::stderr_sink_mt>(), made->writer,
        spdlog::async_overflow_policy::overrun_oldest);
    made->logger->set_pattern("%v");
    made->logger->flush_on(spdlog::level::info);
    return made;
  }();
  return *log;
}

void Write(spdlog::level::level_enum level, const char* level_name, const char* msg,
           std::initializer_list<LogField> fields) {
  Log& log = TheLog();
  if (!log.logger->should_log(level)) {
    return;
  }
  log.logger->log(level,
                  spdlog::string_view_t(JsonLine({{"level", level_name}, {"msg", msg}}, fields)));
}

struct Level {
  const char* name;
  spdlog::level::level_enum level;
};
constexpr Level kLevels[] = {{"debug", spdlog::level::debug},
                             {"info", spdlog::level::info},
                             {"warning", spdlog::level::warn},
                             {"error", spdlog::level::err}};

}  // namespace

std::string JsonLine(std::initializer_list<LogField> first,
                     std::initializer_list<LogField> fields) {
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
  for (const auto& list : {first, fields}) {
    for (const LogField& field : list) {
      std::visit([&](const auto& value) { line[field.key] = value; }, field.value);
    }
  }
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void StartLog(const LogConfig& config) {
  TheLog().prompts = config.prompts;
  SetLogLevel(config.level);
}

bool SetLogLevel(const std::string& level) {
  for (const Level& known : kLevels) {
    if (level == known.name) {
      TheLog().logger->set_level(known.level);
      return true;
    }
  }
  return false;
}

std::string LogLevel() {
  for (const Level& known : kLevels) {
    if (TheLog().logger->level() == known.level) {
      return known.name;
    }
  }
  return "info";
}

bool LogsPrompts() { return TheLog().prompts; }

void LogDebug(const char* msg, std::initializer_list<LogField> fields) {
  Write(spdlog::level::debug, "debug", msg, fields);
}

void LogInfo(const char* msg, std::initializer_list<LogField> fields) {
  Write(spdlog::level::info, "info", msg, fields);
}

void LogWarning(const char* msg, std::initializer_list<LogField> fields) {
  Write(spdlog::level::warn, "warning", msg, fields);
}

void LogError(const char* msg, std::initializer_list<LogField> fields) {
  Write(spdlog::level::err, "error", msg, fields);
}

void StopLog() {
  Log& log = TheLog();
  log.logger->flush();
  const absl::Time end = absl::Now() + absl::Seconds(1);
  while (log.writer->queue_size() > 0 && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  absl::SleepFor(absl::Milliseconds(2));
}

}  // namespace patchflow

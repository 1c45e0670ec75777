#include "worker/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <atomic>
#include <memory>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace patchflow {
namespace {

constexpr size_t kQueuedLines = 1024;

struct Writer {
  std::shared_ptr<spdlog::details::thread_pool> thread =
      std::make_shared<spdlog::details::thread_pool>(kQueuedLines, 1);
  std::shared_ptr<spdlog::async_logger> logger = std::make_shared<spdlog::async_logger>(
      "worker", std::make_shared<spdlog::sinks::stderr_sink_mt>(), thread,
      spdlog::async_overflow_policy::overrun_oldest);
};

// Lives until the process ends, so that any thread may log at any time.
Writer& TheWriter() {
  static Writer* const writer = [] {
    auto* made = new Writer;
    made->logger->set_pattern("%v");
    made->logger->flush_on(spdlog::level::info);
    return made;
  }();
  return *writer;
}

constexpr std::array kLevels = {"debug", "info", "warning", "error"};
std::atomic<LogLevel> least_level = LogLevel::kInfo;

const char* NameOf(LogLevel level) { return kLevels.at(static_cast<size_t>(level)); }

}  // namespace

bool SetLogLevel(std::string_view level) {
  for (size_t i = 0; i < kLevels.size(); ++i) {
    if (level != kLevels.at(i)) continue;
    const auto now = static_cast<LogLevel>(i);
    const LogLevel before = least_level.exchange(now);
    if (before != now) Log(now, "log level", {{"now", NameOf(now)}, {"before", NameOf(before)}});
    return true;
  }
  return false;
}

std::string LogLevelName() { return NameOf(least_level); }

bool Logs(LogLevel level) { return level >= least_level; }

void Log(LogLevel level, const char* msg, const nlohmann::ordered_json& fields) {
  if (!Logs(level)) return;
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
  line["level"] = NameOf(level);
  line["msg"] = msg;
  line.update(fields);
  TheWriter().logger->info(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

void FlushLog() {
  Writer& writer = TheWriter();
  writer.logger->flush();
  const absl::Time end = absl::Now() + absl::Seconds(1);
  while (writer.thread->queue_size() > 0 && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  absl::SleepFor(absl::Milliseconds(2));  // The writer takes a line off the queue before it writes.
}

}  // namespace patchflow

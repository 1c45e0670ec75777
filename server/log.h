// The log: one JSON object a line on stderr. Never blocks: when stderr takes nothing, the oldest
// lines are dropped. Prompts are logged only if the configuration asks for it; callers check
// logs_prompts().
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <variant>

#include "server/config.h"

namespace patchflow {

struct LogField {
  const char* key;
  std::variant<std::string, int64_t, double, bool> value;

  LogField(const char* key, const char* value) : key(key), value(std::string(value)) {}
  LogField(const char* key, std::string value) : key(key), value(std::move(value)) {}
  LogField(const char* key, bool value) : key(key), value(value) {}
  LogField(const char* key, double value) : key(key), value(value) {}
  LogField(const char* key, int value) : key(key), value(int64_t{value}) {}
  LogField(const char* key, int64_t value) : key(key), value(value) {}
};

// {"time": now, first..., fields...} in one line, without its end.
std::string JsonLine(std::initializer_list<LogField> first, std::initializer_list<LogField> fields);

// Sets level and choices. Lines before the first call are written with the defaults.
void StartLog(const LogConfig& config);
bool LogsPrompts();
// "debug", "info", "warning", "error". False, and nothing done, for any other.
bool SetLogLevel(const std::string& level);
std::string LogLevel();
// Whether LogDebug() writes: asked before what is dear to say.
bool LogsDebug();

// {"time": ..., "level": ..., "msg": msg, fields...}
void LogDebug(const char* msg, std::initializer_list<LogField> fields = {});
void LogInfo(const char* msg, std::initializer_list<LogField> fields = {});
void LogWarning(const char* msg, std::initializer_list<LogField> fields = {});
void LogError(const char* msg, std::initializer_list<LogField> fields = {});

// Writes out what waits, for at most a second, and ends the writer.
void StopLog();

}  // namespace patchflow

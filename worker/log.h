// The log: one JSON object a line on stderr. Never blocks: when stderr takes nothing, the oldest
// lines are dropped. Prompts are never logged.
#pragma once

#include <nlohmann/json.hpp>

namespace patchflow {

enum class LogLevel { kInfo, kWarning, kError };

// {"time": ..., "level": ..., "msg": msg, fields...}. Thread-safe. `fields` is an object.
void Log(LogLevel level, const char* msg,
         const nlohmann::ordered_json& fields = nlohmann::ordered_json::object());

// Writes out what waits, for at most a second. Lines that come later may be lost.
void FlushLog();

}  // namespace patchflow

// The log: one JSON object a line on stderr. Never blocks: when stderr takes nothing, the oldest
// lines are dropped. Prompts are never logged, at no level.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace patchflow {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below `level` are not written from now on: "debug", "info" (before the first call),
// "warning", "error". False, and nothing done, for any other. Thread-safe, as the next ones.
bool SetLogLevel(std::string_view level);
std::string LogLevelName();
// Whether lines of this level are written: asked before what is dear to write down.
bool Logs(LogLevel level);

// {"time": ..., "level": ..., "msg": msg, fields...}. `fields` is an object.
void Log(LogLevel level, const char* msg,
         const nlohmann::ordered_json& fields = nlohmann::ordered_json::object());

// Writes out what waits, for at most a second. Lines that come later may be lost.
void FlushLog();

}  // namespace patchflow

// The audit log: who asked for what, how it ended and what it used. One JSON object a line.
//
//   {"time": ..., "event": "call", "method": ..., "identity": ..., "peer": ..., "request_id": ...,
//    "model": ..., "code": "OK", "reason": "", "seconds": ..., "bytes": ...}
//   {"time": ..., "event": "generation", "request_id": ..., "identity": ..., "model": ...,
//    "state": ..., "code": ..., "reason": ..., "prompt_sha256": ..., "prompt_bytes": ...,
//    "width": ..., "height": ..., "steps": ..., "count": ..., "images": ..., "attempts": ...,
//    "queue_seconds": ..., "run_seconds": ..., "device_seconds": ..., "image_bytes": ...}
//
// Every call has one line, every accepted generation one; prompts are in none.
#pragma once

#include <initializer_list>
#include <memory>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/generation.h"
#include "server/log.h"

namespace patchflow {

// Thread-safe. A line is on its way to the file when a method returns, and in it soon after; when
// the file is slower than the server, callers wait.
class AuditLog {
 public:
  // Writes nothing if there is no file. UNAVAILABLE, naming it, if it cannot be opened.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const AuditConfig& config);
  virtual ~AuditLog() = default;  // Waits until all is written.

  void Call(std::initializer_list<LogField> fields) { Write("call", fields); }
  // `generation` has ended.
  void Ended(const Generation& generation);

 protected:
  virtual bool on() const = 0;
  virtual void Write(const char* event, std::initializer_list<LogField> fields) = 0;
};

}  // namespace patchflow

// The audit log: who asked for what, how it ended and what it used. One JSON object a line.
//
//   {"time": ..., "event": "call", "method": ..., "identity": ..., "peer": ..., "request_id": ...,
//    "model": ..., "code": "OK", "reason": "", "seconds": ..., "bytes": ...}
//   {"time": ..., "event": "generation", "request_id": ..., "identity": ..., "model": ...,
//    "state": ..., "code": ..., "reason": ..., "prompt_sha256": ..., "prompt_bytes": ...,
//    "width": ..., "height": ..., "steps": ..., "count": ..., "images": ..., "attempts": ...,
//    "queue_seconds": ..., "run_seconds": ..., "device_seconds": ..., "image_bytes": ...}
//
//   {"time": ..., "event": "admin", "method": ..., "identity": ..., "peer": ..., "level": ...,
//    "model": ..., "folder": ..., "code": "OK", "reason": ""}
//   {"time": ..., "event": "lost", "lines": ...}
//
// Every call has one line, every accepted generation one, every call of the admin service that is
// to change something one; prompts are in none.
//
// A disk that is slow or full never makes a call wait. While a line waits for longer than
// `audit.max_delay`, the server takes nothing new (see Ready()), and what it has taken goes on: its
// lines are kept in memory, up to 32,768, a quarter of which only generations may use. A line for
// which there is no room is counted, and once the file can be written again a line of the event
// "lost" says how many are missing.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/generation.h"
#include "server/log.h"

namespace patchflow {

// Thread-safe. No method waits; a line is in the file about 2 ms later.
class AuditLog {
 public:
  // Writes nothing if there is no file. UNAVAILABLE, naming it, if it cannot be opened.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const AuditConfig& config);
  // Waits until all is written, for at most LineWriter::kLastWrites; logs how many lines are not.
  virtual ~AuditLog() = default;

  void Call(std::initializer_list<LogField> fields) { Write("call", fields); }
  // Of the admin service.
  void Admin(std::initializer_list<LogField> fields) { Write("admin", fields); }
  // `generation` has ended.
  void Ended(const Generation& generation);

  struct Figures {
    int64_t waiting = 0;   // Lines.
    int64_t lost = 0;      // Lines, since the start.
    absl::Duration delay;  // So long has a line waited.
    bool behind = false;
  };
  virtual Figures figures() const = 0;
  // Whether what is done now can be written down. UNAVAILABLE / AUDIT_UNAVAILABLE with RetryInfo
  // while it is behind.
  absl::Status Ready() const;

 protected:
  virtual bool on() const = 0;
  virtual void Write(const char* event, std::initializer_list<LogField> fields) = 0;
};

}  // namespace patchflow

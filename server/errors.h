// The errors that clients see: absl::Status whose payloads are the details of google.rpc.Status.
//
// Every error has exactly one google.rpc.ErrorInfo (domain "patchflow") with a reason, and whatever
// value its message tells stands in the metadata too. Messages are built here from a table of
// facts; they hold no prompt, no path of the server and no text of an exception.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace patchflow {

namespace reason {
inline constexpr char kInvalidRequest[] = "INVALID_REQUEST";
inline constexpr char kLimitExceeded[] = "LIMIT_EXCEEDED";
inline constexpr char kMalformedRequest[] = "MALFORMED_REQUEST";
inline constexpr char kModelNotFound[] = "MODEL_NOT_FOUND";
inline constexpr char kGenerationNotFound[] = "GENERATION_NOT_FOUND";
inline constexpr char kRequestIdConflict[] = "REQUEST_ID_CONFLICT";
inline constexpr char kUnauthenticated[] = "UNAUTHENTICATED";
inline constexpr char kPermissionDenied[] = "PERMISSION_DENIED";
inline constexpr char kRateLimited[] = "RATE_LIMITED";
inline constexpr char kQueueFull[] = "QUEUE_FULL";
inline constexpr char kGpuMemoryBudget[] = "GPU_MEMORY_BUDGET";
inline constexpr char kGpuOutOfMemory[] = "GPU_OUT_OF_MEMORY";
inline constexpr char kStarting[] = "STARTING";
inline constexpr char kDraining[] = "DRAINING";
inline constexpr char kEngineRecovering[] = "ENGINE_RECOVERING";
inline constexpr char kEngineFailed[] = "ENGINE_FAILED";
inline constexpr char kStoreFailed[] = "STORE_FAILED";
inline constexpr char kAuditUnavailable[] = "AUDIT_UNAVAILABLE";
inline constexpr char kPlanChanged[] = "PLAN_CHANGED";
inline constexpr char kDeadlineUnmeetable[] = "DEADLINE_UNMEETABLE";
inline constexpr char kDeadlineInQueue[] = "DEADLINE_IN_QUEUE";
inline constexpr char kDeadlineRunning[] = "DEADLINE_RUNNING";
inline constexpr char kClientCancelled[] = "CLIENT_CANCELLED";
inline constexpr char kCancelledByRequest[] = "CANCELLED_BY_REQUEST";
inline constexpr char kNonFiniteOutput[] = "NON_FINITE_OUTPUT";
inline constexpr char kPoisonRequest[] = "POISON_REQUEST";
inline constexpr char kInternal[] = "INTERNAL";
// To operators only.
inline constexpr char kLoadRefused[] = "LOAD_REFUSED";
inline constexpr char kNotEnoughMemory[] = "NOT_ENOUGH_MEMORY";
// Between the front end and a worker only.
inline constexpr char kWorkerBusy[] = "WORKER_BUSY";
}  // namespace reason

inline constexpr char kErrorDomain[] = "patchflow";
inline constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
inline constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
inline constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
inline constexpr char kQuotaFailureUrl[] = "type.googleapis.com/google.rpc.QuotaFailure";
inline constexpr char kResourceInfoUrl[] = "type.googleapis.com/google.rpc.ResourceInfo";

// One wrong field: "image.width", "1000 is not a multiple of 16".
struct FieldError {
  std::string field;
  std::string description;
};

using ErrorMetadata = std::map<std::string, std::string>;

// Values of the metadata are cut to 200 bytes.
absl::Status MakeError(absl::StatusCode code, const char* reason, const std::string& message,
                       const ErrorMetadata& metadata = {});

// INVALID_ARGUMENT with a BadRequest of all `fields`, which must not be empty; the message joins
// them.
absl::Status FieldErrors(const char* reason, const std::vector<FieldError>& fields,
                         const ErrorMetadata& metadata = {});

// The same error, to be retried after `delay` (RetryInfo).
absl::Status WithRetry(absl::Status status, absl::Duration delay);

// The same error, about a named thing (ResourceInfo): type "patchflow.v1.Model", name "pixart".
absl::Status WithResource(absl::Status status, const std::string& type, const std::string& name);

// The same error, about a quota that is used up (QuotaFailure).
absl::Status WithQuota(absl::Status status, const std::string& subject,
                       const std::string& description);

// At most `bytes` of text, never half a character of UTF-8; "..." at the end if something was cut.
// bytes > 3.
std::string CutText(const std::string& text, size_t bytes);

// The reason of the error's ErrorInfo; empty if it has none.
std::string ReasonOf(const absl::Status& status);

// A value of the ErrorInfo's metadata; empty if there is none.
std::string MetadataOf(const absl::Status& status, const std::string& key);

// The delay of the error's RetryInfo.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

}  // namespace patchflow

#include "client/console.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace patchflow {

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return kExitRefused;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return kExitUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitDeadline;
    case absl::StatusCode::kCancelled:
      return kExitCancelled;
    default:
      return kExitOther;
  }
}

std::string ExitCodeHelp() {
  return "Exit status:\n"
         "  0  done\n"
         "  1  any other failure: a file that can't be written, a broken stream, an internal "
         "error\n"
         "  2  wrong usage; nothing was sent\n"
         "  3  refused by the server: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, "
         "PERMISSION_DENIED,\n"
         "     UNAUTHENTICATED, FAILED_PRECONDITION, OUT_OF_RANGE\n"
         "  4  UNAVAILABLE or RESOURCE_EXHAUSTED, after all retries\n"
         "  5  DEADLINE_EXCEEDED\n"
         "  6  CANCELLED, by Ctrl-C or on the server";
}

std::string Printable(std::string_view text) {
  std::string printable;
  for (char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\n' && c != '\t') {
      absl::StrAppend(&printable, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    } else {
      printable.push_back(c);
    }
  }
  return printable;
}

}  // namespace patchflow

#include "client/console.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace patchflow {
namespace {

TEST(ConsoleTest, EachCodeHasTheExitStatusThatHelpTells) {
  const auto exit_code = [](absl::StatusCode code) { return ExitCodeOf(absl::Status(code, "")); };
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  for (absl::StatusCode code :
       {absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound,
        absl::StatusCode::kAlreadyExists, absl::StatusCode::kPermissionDenied,
        absl::StatusCode::kUnauthenticated, absl::StatusCode::kFailedPrecondition,
        absl::StatusCode::kOutOfRange}) {
    EXPECT_EQ(exit_code(code), 3) << code;
    EXPECT_THAT(ExitCodeHelp(), testing::HasSubstr(absl::StatusCodeToString(code)));
  }
  EXPECT_EQ(exit_code(absl::StatusCode::kUnavailable), 4);
  EXPECT_EQ(exit_code(absl::StatusCode::kResourceExhausted), 4);
  EXPECT_EQ(exit_code(absl::StatusCode::kDeadlineExceeded), 5);
  EXPECT_EQ(exit_code(absl::StatusCode::kCancelled), 6);
  for (absl::StatusCode code :
       {absl::StatusCode::kInternal, absl::StatusCode::kUnknown, absl::StatusCode::kDataLoss,
        absl::StatusCode::kUnimplemented, absl::StatusCode::kAborted}) {
    EXPECT_EQ(exit_code(code), 1) << code;
  }
}

TEST(ConsoleTest, PrintableKeepsTextAndShowsControls) {
  EXPECT_EQ(Printable("a\tb\n\xC3\xA9"), "a\tb\n\xC3\xA9");
  EXPECT_EQ(Printable("\x1B]0;x\x07\r\x7F"), "\\x1b]0;x\\x07\\x0d\\x7f");
}

}  // namespace
}  // namespace patchflow

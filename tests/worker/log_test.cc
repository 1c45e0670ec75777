#include "worker/log.h"

#include <gmock/gmock.h>

namespace patchflow {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string Written(const char* level) {
  testing::internal::CaptureStderr();
  EXPECT_TRUE(SetLogLevel(level));
  Log(LogLevel::kDebug, "quiet");
  Log(LogLevel::kInfo, "usual", {{"n", 1}});
  Log(LogLevel::kError, "loud");
  FlushLog();
  return testing::internal::GetCapturedStderr();
}

TEST(LogTest, WritesNothingBelowItsLevel) {
  EXPECT_THAT(Written("info"), AllOf(Not(HasSubstr("quiet")), HasSubstr(R"("msg":"usual","n":1)"),
                                     HasSubstr(R"("level":"error","msg":"loud")")));
  EXPECT_THAT(Written("debug"), AllOf(HasSubstr(R"("level":"debug","msg":"quiet")"),
                                      HasSubstr("usual"), HasSubstr("loud")));
  EXPECT_THAT(Written("error"),
              AllOf(Not(HasSubstr("quiet")), Not(HasSubstr("usual")), HasSubstr("loud")));
  SetLogLevel("info");
}

TEST(LogTest, RefusesALevelThatIsNone) {
  SetLogLevel("warning");
  EXPECT_FALSE(SetLogLevel("verbose"));
  EXPECT_EQ(LogLevelName(), "warning");
  EXPECT_FALSE(Logs(LogLevel::kInfo));
  EXPECT_TRUE(Logs(LogLevel::kError));
  SetLogLevel("info");
}

}  // namespace
}  // namespace patchflow

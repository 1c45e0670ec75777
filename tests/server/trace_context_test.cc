#include "server/trace_context.h"

#include <gtest/gtest.h>

#include <set>

namespace patchflow {
namespace {

constexpr char kHeader[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContextTest, ReadsWhatItWrites) {
  const auto context = ParseTraceparent(kHeader);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace_high, 0x0af7651916cd43ddU);
  EXPECT_EQ(context->trace_low, 0x8448eb211c80319cU);
  EXPECT_EQ(context->span, 0xb7ad6b7169203331U);
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(TraceparentOf(*context), kHeader);
  EXPECT_EQ(TraceIdOf(*context), "0af7651916cd43dd8448eb211c80319c");
  const auto unsampled =
      ParseTraceparent("00-000000000000000000000000000000ff-00000000000000a0-02");
  ASSERT_TRUE(unsampled.has_value());
  EXPECT_FALSE(unsampled->sampled);
  EXPECT_EQ(TraceparentOf(*unsampled), "00-000000000000000000000000000000ff-00000000000000a0-00");
}

TEST(TraceContextTest, TakesLaterVersionsThatBeginAlike) {
  EXPECT_TRUE(ParseTraceparent("cc" + std::string(kHeader + 2)).has_value());
  EXPECT_TRUE(ParseTraceparent("cc" + std::string(kHeader + 2) + "-more").has_value());
  EXPECT_FALSE(ParseTraceparent("cc" + std::string(kHeader + 2) + "more").has_value());
}

TEST(TraceContextTest, IgnoresWhatIsMalformed) {
  for (const char* header : {
           "",
           "00",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
           "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
           "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331_01",
       }) {
    EXPECT_FALSE(ParseTraceparent(header).has_value()) << header;
  }
}

TEST(TraceContextTest, DrawsTracesAndSpansThatDiffer) {
  std::set<uint64_t> spans;
  for (int i = 0; i < 100; ++i) {
    const TraceContext context = NewTrace(true);
    EXPECT_NE(context.trace_high, 0U);
    EXPECT_NE(context.span, 0U);
    spans.insert(context.span);
    for (uint64_t n = 0; n < 50; ++n) {
      spans.insert(ChildSpan(context.span, n));
    }
  }
  EXPECT_EQ(spans.size(), 100U * 51);
  EXPECT_EQ(ChildSpan(7, 3), ChildSpan(7, 3));
}

}  // namespace
}  // namespace patchflow

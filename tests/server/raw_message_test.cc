#include "server/raw_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "patchflow/v1/image_generation.pb.h"
#include "server/errors.h"

namespace patchflow {
namespace {

grpc::ByteBuffer BytesOf(const std::string& text) {
  const grpc::Slice slice(text);
  return {&slice, 1};
}

TEST(RawMessageTest, ComesBackAsItWas) {
  v1::GetGenerationRequest request;
  request.set_request_id("one");
  v1::GetGenerationRequest parsed;
  EXPECT_TRUE(ParseMessage(SerializeMessage(request), parsed).ok());
  EXPECT_EQ(parsed.request_id(), "one");
  EXPECT_TRUE(ParseMessage(SerializeMessage(v1::GetGenerationRequest()), parsed).ok());
  EXPECT_EQ(parsed.request_id(), "");
}

TEST(RawMessageTest, BytesThatAreNoMessageAreMalformed) {
  v1::GetGenerationRequest parsed;
  for (const char* bytes : {"\xff\xff", "\x0a\x7f", "\x0a\x02\xff\xfe"}) {
    const absl::Status status = ParseMessage(BytesOf(bytes), parsed);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(status), reason::kMalformedRequest);
  }
  EXPECT_THAT(std::string(ParseMessage(BytesOf("\x0a\x02\xff\xfe"), parsed).message()),
              testing::HasSubstr("patchflow.v1.GetGenerationRequest.request_id: is not UTF-8"));
}

TEST(RawMessageTest, AMessageThatNeverCameIsAClientThatLeft) {
  v1::GetGenerationRequest parsed;
  const absl::Status status = ParseMessage(grpc::ByteBuffer(), parsed);
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ReasonOf(status), reason::kClientCancelled);
}

}  // namespace
}  // namespace patchflow

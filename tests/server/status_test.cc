#include "server/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/errors.h"

namespace patchflow {
namespace {

TEST(StatusTest, CarriesEveryDetailThereAndBack) {
  const absl::Status status =
      WithResource(WithRetry(MakeError(absl::StatusCode::kResourceExhausted, reason::kQueueFull,
                                       "the queue is full", {{"depth", "3"}}),
                             absl::Milliseconds(1500)),
                   "patchflow.v1.Model", "shapes");
  const grpc::Status wire = ToGrpc(status);
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(wire.error_message(), "the queue is full");
  const absl::Status back = FromGrpc(wire);
  EXPECT_EQ(back, status);
  EXPECT_EQ(ReasonOf(back), "QUEUE_FULL");
  EXPECT_EQ(MetadataOf(back, "depth"), "3");
  EXPECT_EQ(RetryDelayOf(back), absl::Milliseconds(1500));
}

TEST(StatusTest, HasExactlyOneErrorInfoOfOurDomain) {
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(
      ToGrpc(FieldErrors(reason::kInvalidRequest, {{"image.width", "0 is less than 16"}}))
          .error_details()));
  EXPECT_EQ(details.code(), 3);
  ASSERT_EQ(details.details_size(), 2);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "patchflow");
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.details(1).UnpackTo(&bad));
  EXPECT_EQ(bad.field_violations(0).field(), "image.width");
}

TEST(StatusTest, FitsIntoTrailersHoweverMuchIsWrong) {
  std::vector<FieldError> fields;
  for (int i = 0; i < 100; ++i) {
    fields.push_back({"field" + std::to_string(i), std::string(200, 'x')});
  }
  const grpc::Status wire = ToGrpc(FieldErrors(reason::kInvalidRequest, fields));
  EXPECT_LT(wire.error_message().size(), 1024U);
  EXPECT_LT(wire.error_details().size(), 4096U);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(wire.error_details()));
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.details(1).UnpackTo(&bad));
  ASSERT_GT(bad.field_violations_size(), 5);
  const auto& last = bad.field_violations(bad.field_violations_size() - 1);
  EXPECT_EQ(last.field(), "*");
  EXPECT_EQ(last.description(),
            "and " + std::to_string(101 - bad.field_violations_size()) + " more");
}

TEST(StatusTest, CutsBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 1000; ++i) {
    text += "\xE2\x82\xAC";
  }
  const std::string cut = CutText(text, 1000);
  EXPECT_LE(cut.size(), 1000U);
  EXPECT_EQ((cut.size() - 3) % 3, 0U);
}

TEST(StatusTest, HidesErrorsWithoutAReason) {
  const grpc::Status wire = ToGrpc(absl::UnknownError("/secret/path: segment 7"));
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(wire.error_message().find("secret"), std::string::npos);
  EXPECT_EQ(ReasonOf(FromGrpc(wire)), "INTERNAL");
}

TEST(StatusTest, KeepsOkAndTransportErrors) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
  const absl::Status lost = FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed"));
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(lost), "");
}

}  // namespace
}  // namespace patchflow

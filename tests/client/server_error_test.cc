#include "client/server_error.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/client/fake_service.h"

namespace patchflow {
namespace {

const grpc::Status kBadRequest = ErrorStatus(
    grpc::INVALID_ARGUMENT, "INVALID_REQUEST", "2 fields are wrong", -1,
    {{"image.width", "1000 is not a multiple of 16"}, {"sampling.steps", "0 is not in 1 .. 200"}});

TEST(ServerErrorTest, KeepsCodeMessageAndDetails) {
  const absl::Status status = StatusOf(kBadRequest);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "2 fields are wrong");
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status)->reason(), "INVALID_REQUEST");
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status)->field_violations_size(), 2);
  EXPECT_FALSE(DetailOf<google::rpc::RetryInfo>(status).has_value());
}

TEST(ServerErrorTest, TakesStatusesWithoutDetails) {
  EXPECT_TRUE(StatusOf(grpc::Status::OK).ok());
  const absl::Status bare = StatusOf({grpc::UNAVAILABLE, "connection refused"});
  EXPECT_EQ(bare, absl::UnavailableError("connection refused"));
  EXPECT_EQ(StatusOf({grpc::INTERNAL, "odd", "\xFF\xFF no proto"}), absl::InternalError("odd"));
  EXPECT_EQ(RenderError(bare), "UNAVAILABLE: connection refused");
  EXPECT_EQ(ErrorJson(bare),
            nlohmann::json({{"status", "UNAVAILABLE"}, {"message", "connection refused"}}));
}

TEST(ServerErrorTest, RendersEveryViolation) {
  EXPECT_EQ(RenderError(StatusOf(kBadRequest)),
            "INVALID_ARGUMENT (INVALID_REQUEST): 2 fields are wrong\n"
            "  image.width: 1000 is not a multiple of 16\n"
            "  sampling.steps: 0 is not in 1 .. 200");
}

TEST(ServerErrorTest, RendersWhenToTryAgain) {
  EXPECT_EQ(RenderError(StatusOf(
                ErrorStatus(grpc::RESOURCE_EXHAUSTED, "QUEUE_FULL", "256 requests wait", 2.5))),
            "RESOURCE_EXHAUSTED (QUEUE_FULL): 256 requests wait\n  try again in 2.5 s");
}

TEST(ServerErrorTest, RendersNoControlCharacters) {
  EXPECT_EQ(RenderError(absl::InternalError("red \x1B[31m, bell \x07")),
            "INTERNAL: red \\x1b[31m, bell \\x07");
}

TEST(ServerErrorTest, TellsProgramsTheSame) {
  EXPECT_EQ(ErrorJson(StatusOf(kBadRequest)),
            nlohmann::json::parse(R"({"status": "INVALID_ARGUMENT", "reason": "INVALID_REQUEST",
              "message": "2 fields are wrong", "metadata": {"limit": "16"},
              "violations": [{"field": "image.width", "description": "1000 is not a multiple of 16"},
                             {"field": "sampling.steps", "description": "0 is not in 1 .. 200"}]})"));
  EXPECT_EQ(
      ErrorJson(StatusOf(ErrorStatus(grpc::UNAVAILABLE, "STARTING", "", 1.25)))["retry_after_s"],
      1.25);
}

}  // namespace
}  // namespace patchflow

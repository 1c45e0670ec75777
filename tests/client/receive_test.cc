#include "client/receive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <sstream>
#include <thread>

#include "absl/time/clock.h"
#include "client/server_error.h"
#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class ReceiveTest : public testing::Test {
 protected:
  ReceiveTest() {
    request_.set_request_id("r-1");
    request_.mutable_sampling()->set_seed(5);
    request_.mutable_image()->set_count(2);
    connection_options_.timeout = "20s";
    connection_options_.retry.first_delay = absl::Milliseconds(1);
  }

  GenerationResult Run(const std::string& out = "{index}.{ext}") {
    server_ = std::make_unique<FakeServer>(service_);
    connection_options_.server = server_->address();
    const Connection connection = Connection::Open(connection_options_).value();
    const auto view = MakeQuietView(console_);
    return Receive({connection, console_, interrupt_, *view, true},
                   OpenGenerate(connection, request_),
                   {.request_id = "r-1",
                    .content = StreamContent::kImages,
                    .out = OutputPattern::Parse(folder_ / out).value(),
                    .prompt_index = 0});
  }

  // A generation that ends with `status` after so many messages, the first `times` times.
  void BreakAfter(size_t messages, int times, const grpc::Status& status) {
    service_.on_generate = [=, this](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                                     const FakeService::Write& write) {
      const bool breaks = ++calls_ <= times;
      const Script script = WholeGeneration(request);
      for (size_t i = 0; i < script.messages.size(); ++i) {
        if (breaks && i == messages) return status;
        write(script.messages[i]);
      }
      return grpc::Status::OK;
    };
  }

  ScratchFolder folder_;
  FakeService service_;
  std::unique_ptr<FakeServer> server_;
  v1::GenerateImagesRequest request_;
  ConnectionOptions connection_options_;
  std::ostringstream out_;
  std::ostringstream err_;
  Console console_{out_, err_};
  Interrupt interrupt_;
  std::atomic<int> calls_ = 0;
};

TEST_F(ReceiveTest, WritesEveryImage) {
  const GenerationResult result = Run();
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(ReadFile(folder_ / "0.png"), ImageBytes(5));
  EXPECT_EQ(ReadFile(folder_ / "1.png"), ImageBytes(6));
  EXPECT_EQ(folder_.num_files(), 2U);
  ASSERT_EQ(result.images.size(), 2U);
  EXPECT_EQ(result.images[1].path, folder_ / "1.png");
  EXPECT_EQ(result.completed->server_version(), "fake");
  EXPECT_EQ(result.retries, 0);
  EXPECT_THAT(out_.str(), HasSubstr("1.png  64x32  seed 6"));
}

TEST_F(ReceiveTest, TakesChunksOfOneMebibyte) {
  const std::string bytes = ImageBytes(5, (3 << 20) + 17);
  service_.on_generate = [&](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                             const FakeService::Write& write) {
    Script script(request.request_id());
    script.Accepted(1, 5);
    script.Image(0, 5, bytes, 1 << 20);
    script.Completed();
    for (const auto& message : script.messages) write(message);
    return grpc::Status::OK;
  };
  const GenerationResult result = Run();
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(ReadFile(folder_ / "0.png"), bytes);
}

TEST_F(ReceiveTest, TriesAgainAfterUnavailable) {
  BreakAfter(0, 3, ErrorStatus(grpc::UNAVAILABLE, "STARTING", "the model is loading", 0.001));
  const GenerationResult result = Run();
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.retries, 3);
  EXPECT_EQ(calls_, 4);
  EXPECT_THAT(err_.str(), HasSubstr("UNAVAILABLE (STARTING): the model is loading"));
  EXPECT_THAT(err_.str(), HasSubstr("retry 3 of 5 in"));
}

TEST_F(ReceiveTest, AsksForTheSameAgain) {
  BreakAfter(5, 1, {grpc::UNAVAILABLE, "connection lost"});
  ASSERT_TRUE(Run().status.ok());
  const auto requests = service_.requests();
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_EQ(requests[0].SerializeAsString(), requests[1].SerializeAsString());
}

TEST_F(ReceiveTest, DoesNotWriteAnImageTwice) {
  BreakAfter(8, 1, {grpc::UNAVAILABLE, "connection lost"});  // Within the second image.
  const GenerationResult result = Run();
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.images.size(), 2U);
  EXPECT_EQ(ReadFile(folder_ / "1.png"), ImageBytes(6));
  const std::string lines = out_.str();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 2);
}

TEST_F(ReceiveTest, RefusesOtherBytesAfterARetry) {
  service_.on_generate = [this](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                                const FakeService::Write& write) {
    Script script(request.request_id());
    script.Accepted(2, 5);
    script.Image(0, 5, ImageBytes(calls_++), 5000);  // Before the client sees any of it.
    for (const auto& message : script.messages) write(message);
    return grpc::Status(grpc::UNAVAILABLE, "connection lost");
  };
  const GenerationResult result = Run();
  EXPECT_EQ(result.status,
            absl::DataLossError("image 0 came again with other bytes after a retry"));
  EXPECT_EQ(calls_, 2);
}

TEST_F(ReceiveTest, GivesUpAfterSoManyRetries) {
  connection_options_.retry.retries = 2;
  BreakAfter(0, 1000, {grpc::UNAVAILABLE, "gone"});
  const GenerationResult result = Run();
  EXPECT_EQ(result.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(result.retries, 2);
  EXPECT_EQ(calls_, 3);
}

TEST_F(ReceiveTest, WaitsAsLongAsTheServerSays) {
  BreakAfter(0, 1, ErrorStatus(grpc::RESOURCE_EXHAUSTED, "QUEUE_FULL", "full", 0.3));
  const GenerationResult result = Run();
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_GE(result.elapsed, absl::Milliseconds(300));
}

TEST_F(ReceiveTest, DoesNotTryRefusalsAgain) {
  BreakAfter(0, 1,
             ErrorStatus(grpc::INVALID_ARGUMENT, "INVALID_REQUEST", "wrong", -1,
                         {{"image.width", "odd"}}));
  const GenerationResult result = Run();
  EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(result.status)->field_violations(0).field(),
            "image.width");
  EXPECT_EQ(calls_, 1);
}

TEST_F(ReceiveTest, ABrokenStreamIsCancelledAndWritesNothing) {
  std::atomic<bool> cancelled = false;
  service_.on_generate = [&](grpc::ServerContext& context, const v1::GenerateImagesRequest& request,
                             const FakeService::Write& write) {
    Script script = WholeGeneration(request);
    for (auto& message : script.messages) {
      if (message.has_image_chunk()) (*message.mutable_image_chunk()->mutable_data())[0] ^= 1;
      write(message);
      if (message.has_image_chunk() && message.image_chunk().offset() > 4000) break;
    }
    const absl::Time end = absl::Now() + absl::Seconds(15);
    while (!context.IsCancelled() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(2));
    cancelled = context.IsCancelled();
    return grpc::Status::OK;
  };
  const GenerationResult result = Run();
  EXPECT_EQ(result.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(folder_.num_files(), 0U);
  server_.reset();
  EXPECT_TRUE(cancelled);
}

TEST_F(ReceiveTest, AFileThatCantBeWrittenEndsIt) {
  std::ofstream(folder_ / "taken") << "x";
  const GenerationResult result = Run("taken/{index}.png");
  EXPECT_THAT(std::string(result.status.message()), HasSubstr("can't write " + folder_ / "taken"));
  EXPECT_TRUE(result.images.empty());
}

TEST_F(ReceiveTest, InterruptEndsTheCallAtOnce) {
  std::atomic<bool> cancelled = false;
  service_.on_generate = [&](grpc::ServerContext& context, const v1::GenerateImagesRequest& request,
                             const FakeService::Write& write) {
    write(WholeGeneration(request).messages[0]);
    interrupt_.Trigger();
    const absl::Time end = absl::Now() + absl::Seconds(15);
    while (!context.IsCancelled() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(2));
    cancelled = context.IsCancelled();
    return grpc::Status::CANCELLED;
  };
  const GenerationResult result = Run();
  EXPECT_EQ(result.status, absl::CancelledError("interrupted"));
  EXPECT_LT(result.elapsed, absl::Seconds(10));
  server_.reset();
  EXPECT_TRUE(cancelled);
}

TEST_F(ReceiveTest, InterruptEndsTheWaitForARetry) {
  BreakAfter(0, 1000, ErrorStatus(grpc::UNAVAILABLE, "DRAINING", "", 15));
  std::jthread presses([this] {
    while (calls_ == 0) absl::SleepFor(absl::Milliseconds(1));
    absl::SleepFor(absl::Milliseconds(20));
    interrupt_.Trigger();
  });
  const GenerationResult result = Run();
  EXPECT_EQ(result.status, absl::CancelledError("interrupted"));
  EXPECT_LT(result.elapsed, absl::Seconds(10));
}

}  // namespace
}  // namespace patchflow

#include "client/load_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

TEST(CuttableChannelTest, CarriesCallsUntilItIsCut) {
  FakeService service;
  const FakeServer server(service);
  auto channel = CuttableChannel::Connect(server.address(), absl::Seconds(5));
  ASSERT_TRUE(channel.ok()) << channel.status();
  const auto stub = v1::ImageGenerationService::NewStub((*channel)->channel());
  const auto list = [&stub] {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    return stub->ListModels(&context, {}, &response).error_code();
  };
  EXPECT_EQ(list(), grpc::OK);
  (*channel)->Cut();
  EXPECT_EQ(list(), grpc::UNAVAILABLE);
}

TEST(CuttableChannelTest, SpeaksOverUnixSocketsAndTcp) {
  const ScratchFolder folder;
  const std::string address = "unix:" + folder / "socket";
  FakeService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  EXPECT_TRUE(CuttableChannel::Connect("unix:" + folder / "socket", absl::Seconds(5)).ok());
  EXPECT_TRUE(CuttableChannel::Connect(absl::StrCat("127.0.0.1:", port), absl::Seconds(5)).ok());
  server->Shutdown(std::chrono::system_clock::now());
}

TEST(CuttableChannelTest, SaysWhatItCanNotReach) {
  for (const char* address : {"127.0.0.1:1", "nowhere", "unix:/nowhere/socket", "[::1:5"}) {
    const auto channel = CuttableChannel::Connect(address, absl::Seconds(2));
    EXPECT_EQ(channel.status().code(), absl::StatusCode::kUnavailable) << address;
    EXPECT_THAT(std::string(channel.status().message()), HasSubstr(address));
  }
}

}  // namespace
}  // namespace patchflow

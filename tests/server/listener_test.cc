#include "server/listener.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "patchflow/v1/image_generation.grpc.pb.h"

namespace patchflow {
namespace {

constexpr auto kPatience = std::chrono::seconds(20);

template <typename Condition>
bool Eventually(const Condition& condition) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// Holds every call, and the bytes of its request as gRPC read them, until told.
class HoldingService final
    : public v1::ImageGenerationService::WithRawCallbackMethod_GenerateImagesUnary<
          v1::ImageGenerationService::CallbackService> {
 public:
  grpc::ServerUnaryReactor* GenerateImagesUnary(grpc::CallbackServerContext* /*context*/,
                                                const grpc::ByteBuffer* /*request*/,
                                                grpc::ByteBuffer* response) override {
    const grpc::Slice empty;
    *response = grpc::ByteBuffer(&empty, 1);
    auto* call = new Call(*this);
    const std::lock_guard<std::mutex> lock(mutex_);
    held_.insert(call);
    return call;
  }
  size_t held() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return held_.size();
  }
  // As many as are held.
  void Release(size_t calls) {
    for (; calls > 0; --calls) {
      Call* call = nullptr;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (held_.empty()) {
          return;
        }
        call = held_.extract(held_.begin()).value();
      }
      call->Finish(grpc::Status::OK);
    }
  }

 private:
  class Call final : public grpc::ServerUnaryReactor {
   public:
    explicit Call(HoldingService& service) : service_(service) {}
    void OnCancel() override {
      if (service_.Drop(this)) {
        Finish(grpc::Status::CANCELLED);
      }
    }
    void OnDone() override { delete this; }

   private:
    HoldingService& service_;
  };
  bool Drop(Call* call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return held_.erase(call) == 1;
  }

  std::mutex mutex_;
  std::set<Call*> held_;
};

class ListenerTest : public ::testing::Test {
 protected:
  ListenerTest() {
    options_.key = "test";
    options_.address = "127.0.0.1:0";
    options_.credentials = grpc::InsecureServerCredentials();
    options_.services = {&service_};
    options_.max_message_bytes = 1 << 20;
  }
  ~ListenerTest() override {
    for (auto& call : calls_) {
      call.context.TryCancel();
    }
    EXPECT_TRUE(Eventually([this] { return ended() == calls_.size(); }));
    listener_.Stop(absl::ZeroDuration());
  }
  void Start() {
    auto listener = Listen(options_);
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    stub_ = v1::ImageGenerationService::NewStub(
        grpc::CreateChannel(listener_.address, grpc::InsecureChannelCredentials()));
  }
  // All on one connection.
  void Call(size_t request_bytes) {
    Pending& call = calls_.emplace_back();
    call.request.mutable_generation()->mutable_prompt()->set_text(std::string(request_bytes, 'a'));
    stub_->async()->GenerateImagesUnary(&call.context, &call.request, &call.response,
                                        [this, &call](const grpc::Status& status) {
                                          const std::lock_guard<std::mutex> lock(mutex_);
                                          call.code = status.error_code();
                                          ++ended_;
                                        });
  }
  size_t ended() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ended_;
  }
  // Calls that have ended so.
  int Ended(grpc::StatusCode code) {
    const std::lock_guard<std::mutex> lock(mutex_);
    int count = 0;
    for (const Pending& call : calls_) {
      count += call.code == code ? 1 : 0;
    }
    return count;
  }

  struct Pending {
    grpc::ClientContext context;
    v1::GenerateImagesUnaryRequest request;
    v1::GenerateImagesUnaryResponse response;
    grpc::StatusCode code = grpc::StatusCode::DO_NOT_USE;  // Not ended.
  };
  HoldingService service_;
  ListenerOptions options_;
  Listener listener_;
  std::unique_ptr<v1::ImageGenerationService::Stub> stub_;
  std::deque<Pending> calls_;
  std::mutex mutex_;
  size_t ended_ = 0;
};

TEST_F(ListenerTest, LetsAConnectionHaveSoManyStreams) {
  options_.max_streams = 2;
  Start();
  Call(1);
  ASSERT_TRUE(Eventually([this] { return service_.held() == 1; }));
  Call(1);
  Call(1);
  ASSERT_TRUE(Eventually([this] { return service_.held() == 2; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(service_.held(), 2U) << "the third waits";
  EXPECT_EQ(ended(), 0U);
  service_.Release(1);
  EXPECT_TRUE(Eventually([this] { return service_.held() == 2; })) << "and comes after another";
  EXPECT_TRUE(Eventually([this] { return Ended(grpc::StatusCode::OK) == 1; }));
  service_.Release(2);
  EXPECT_TRUE(Eventually([this] { return Ended(grpc::StatusCode::OK) == 3; }));
}

TEST_F(ListenerTest, LetsCallsHoldMemory) {
  Start();
  for (int i = 0; i < 48; ++i) {
    Call(512 << 10);
  }
  EXPECT_TRUE(Eventually([this] { return service_.held() == 48; }));
  EXPECT_EQ(ended(), 0U);
}

TEST_F(ListenerTest, EndsCallsAboveItsMemory) {
  options_.max_memory_bytes = 8 << 20;
  Start();
  for (int i = 0; i < 48; ++i) {
    Call(512 << 10);
  }
  EXPECT_TRUE(Eventually([this] { return Ended(grpc::StatusCode::RESOURCE_EXHAUSTED) >= 16; }))
      << ended() << " ended, " << service_.held() << " held";
  EXPECT_LT(service_.held(), 32U);
}

}  // namespace
}  // namespace patchflow

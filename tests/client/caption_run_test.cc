#include "client/caption_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "absl/time/clock.h"
#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class CaptionRunTest : public testing::Test {
 protected:
  CaptionRunTest() {
    options_.file = folder_ / "captions.txt";
    WriteCaptions(6);
    connection_options_.timeout = "20s";
    connection_options_.retry.retries = 0;
  }

  void WriteCaptions(int count) {
    std::ofstream file(options_.file);
    for (int i = 0; i < count; ++i) file << "caption " << i << "\n";
  }

  int Run() { return Run(interrupt_); }
  int Run(Interrupt& interrupt) {
    if (!server_) server_ = std::make_unique<FakeServer>(service_);
    connection_options_.server = server_->address();
    const Connection connection = Connection::Open(connection_options_).value();
    const CaptionPlan plan = PlanCaptions(options_, generate_, folder_ / "images/").value();
    return RunCaptions({plan, generate_, display_, connection, options_.in_flight}, console_,
                       interrupt);
  }

  std::string Image(const std::string& number) { return ReadFile(folder_ / ("images/" + number)); }

  // Answers `status` to the first `times` requests for each of these captions.
  void FailOn(const std::vector<std::string>& captions, int times, const grpc::Status& status) {
    service_.on_generate = [=, this](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                                     const FakeService::Write& write) {
      const std::string& caption = request.prompt().text();
      {
        const std::lock_guard lock(mutex_);
        if (std::find(captions.begin(), captions.end(), caption) != captions.end() &&
            ++tries_[caption] <= times) {
          return status;
        }
      }
      for (const auto& message : WholeGeneration(request).messages) write(message);
      return grpc::Status::OK;
    };
  }

  ScratchFolder folder_;
  FakeService service_;
  std::unique_ptr<FakeServer> server_;
  CaptionOptions options_;
  GenerateOptions generate_;
  DisplayOptions display_;
  ConnectionOptions connection_options_;
  std::ostringstream out_;
  std::ostringstream err_;
  Console console_{out_, err_};
  Interrupt interrupt_;
  std::mutex mutex_;
  std::map<std::string, int> tries_;
};

TEST_F(CaptionRunTest, ImageNumberHasItsCaptionAndSeed) {
  EXPECT_EQ(Run(), kExitOk) << err_.str();
  EXPECT_EQ(Image("00000.png"), ImageBytes(0));
  EXPECT_EQ(Image("00005.png"), ImageBytes(5));
  for (const v1::GenerateImagesRequest& request : service_.requests())
    EXPECT_EQ(request.prompt().text(), absl::StrCat("caption ", request.sampling().seed()));
  EXPECT_THAT(out_.str(), ContainsRegex("6 drawn, 0 there before, 0 failed, [0-9]+s?\n"));
  EXPECT_THAT(err_.str(), ContainsRegex("6 of 6, [0-9.]+ images/s\n"));
}

TEST_F(CaptionRunTest, SeedsCountFromTheOneGiven) {
  generate_.seed = 1000;
  generate_.steps = 12;
  EXPECT_EQ(Run(), kExitOk);
  EXPECT_EQ(Image("00005.png"), ImageBytes(1005));
  EXPECT_EQ(service_.requests()[0].sampling().steps(), 12);
}

TEST_F(CaptionRunTest, GoesOnWhereItStopped) {
  options_.part = "1/2";
  EXPECT_EQ(Run(), kExitOk);
  options_.part = "";
  EXPECT_EQ(Run(), kExitOk);
  EXPECT_EQ(service_.requests().size(), 6U);
  EXPECT_THAT(out_.str(), HasSubstr("3 drawn, 3 there before, 0 failed"));
  EXPECT_EQ(Run(), kExitOk);
  EXPECT_EQ(service_.requests().size(), 6U);
}

TEST_F(CaptionRunTest, SeveralAreInFlight) {
  options_.in_flight = 3;
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
  service_.on_generate = [&](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                             const FakeService::Write& write) {
    const int now = ++inside;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) continue;
    const absl::Time limit = absl::Now() + absl::Seconds(5);
    while (most < 3 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
    --inside;
    for (const auto& message : WholeGeneration(request).messages) write(message);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run(), kExitOk);
  EXPECT_EQ(most, 3);
}

TEST_F(CaptionRunTest, FailuresAreTriedAgain) {
  FailOn({"caption 1", "caption 4"}, 1, {grpc::INTERNAL, "broken"});
  EXPECT_EQ(Run(), kExitOk) << err_.str();
  EXPECT_THAT(err_.str(), HasSubstr("trying again: 2\n"));
  EXPECT_EQ(service_.requests().size(), 8U);
  EXPECT_EQ(Image("00004.png"), ImageBytes(4));
}

TEST_F(CaptionRunTest, WhatFailsForGoodIsListed) {
  FailOn({"caption 1"}, 2, ErrorStatus(grpc::INTERNAL, "NON_FINITE_OUTPUT", "not finite"));
  EXPECT_EQ(Run(), kExitOther);
  EXPECT_THAT(err_.str(),
              HasSubstr("failed: 1 \"caption 1\": INTERNAL (NON_FINITE_OUTPUT): not finite\n"));
  EXPECT_THAT(out_.str(), HasSubstr("5 drawn, 0 there before, 1 failed"));
}

TEST_F(CaptionRunTest, WhatIsRefusedIsNotTriedAgain) {
  FailOn({"caption 2"}, 100, ErrorStatus(grpc::INVALID_ARGUMENT, "INVALID_REQUEST", "no"));
  EXPECT_EQ(Run(), kExitRefused);
  EXPECT_EQ(service_.requests().size(), 6U);
}

TEST_F(CaptionRunTest, GivesUpWhenManyInARowFail) {
  WriteCaptions(100);
  service_.on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest&,
                            const FakeService::Write&) {
    return grpc::Status(grpc::UNAVAILABLE, "down");
  };
  EXPECT_EQ(Run(), kExitUnavailable);
  EXPECT_LT(service_.requests().size(), 16U + 4U);
  EXPECT_THAT(err_.str(), HasSubstr("gave up: the last "));
}

TEST_F(CaptionRunTest, TheInterruptEndsItAndTheRestFollows) {
  WriteCaptions(100);
  options_.in_flight = 2;
  service_.on_generate = [this](grpc::ServerContext& context,
                                const v1::GenerateImagesRequest& request,
                                const FakeService::Write& write) {
    if (request.sampling().seed() == 7) {
      // The other one in flight may be the sixth.
      while (Image("00005.png") != ImageBytes(5) && !context.IsCancelled()) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      interrupt_.Trigger();
    }
    if (request.sampling().seed() >= 7) {
      while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
      return grpc::Status(grpc::CANCELLED, "");
    }
    for (const auto& message : WholeGeneration(request).messages) write(message);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run(), kExitCancelled);
  EXPECT_THAT(err_.str(), HasSubstr("interrupted; the same command goes on from here"));
  EXPECT_THAT(out_.str(), HasSubstr(" drawn, 0 there before, 0 failed"));
  EXPECT_EQ(Image("00005.png"), ImageBytes(5));
  service_.on_generate = FakeService().on_generate;
  Interrupt untouched;
  EXPECT_EQ(Run(untouched), kExitOk);
  EXPECT_EQ(Image("00099.png"), ImageBytes(99));
}

TEST_F(CaptionRunTest, TellsProgramsEachTryInJson) {
  display_.json = true;
  display_.quiet = true;
  FailOn({"caption 3"}, 1, {grpc::INTERNAL, "broken"});
  EXPECT_EQ(Run(), kExitOk);
  std::map<int, std::vector<std::string>> statuses;
  std::istringstream lines(out_.str());
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json json = nlohmann::json::parse(line);
    EXPECT_EQ(json["prompt"], absl::StrCat("caption ", json["number"].get<int>()));
    statuses[json["number"]].push_back(json["status"]);
  }
  EXPECT_EQ(statuses.size(), 6U);
  EXPECT_THAT(statuses[3], testing::ElementsAre("INTERNAL", "OK"));
}

TEST(CaptionProgressTextTest, TellsHowLongItWillTake) {
  EXPECT_EQ(CaptionProgressText(0, 0, 5, 20, absl::Seconds(3)), "5 of 20");
  EXPECT_EQ(CaptionProgressText(100, 1, 23, 2024, absl::Seconds(50)),
            "123 of 2024, 1 failed, 2.00 images/s, 15m50s left");
  EXPECT_EQ(CaptionProgressText(15, 0, 5, 20, absl::Seconds(30)), "20 of 20, 0.50 images/s");
}

}  // namespace
}  // namespace patchflow

#include "worker/device_watch.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cstdlib>
#include <future>

#include "absl/time/clock.h"
#include "tests/worker/fake_group.h"
#include "worker/exit_codes.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

// A watch over a driver with two devices, whose errors the environment tells: see fake_nvml.cc.
class DeviceWatchTest : public testing::Test {
 protected:
  ~DeviceWatchTest() override {
    unsetenv("FAKE_NVML_XIDS");
    unsetenv("FAKE_NVML_ECC");
  }
  static std::unique_ptr<DeviceWatch> Listen() {
    auto driver = NvmlWatch::Open(FAKE_NVML, {"0000:1B:00.0", "0000:2B:00.0"});
    EXPECT_TRUE(driver.ok()) << driver.status();
    return std::make_unique<DeviceWatch>(std::vector<at::Device>(), *std::move(driver));
  }
};

TEST_F(DeviceWatchTest, CpusHaveNoFaults) {
  EXPECT_FALSE(DeviceWatch({at::kCPU}).Find().has_value());
}

TEST_F(DeviceWatchTest, TellsTheFirstFaultAndAllOfThemInWords) {
  setenv("FAKE_NVML_XIDS", "79:1,48:0", 1);
  const auto fault = Listen()->AskDriver();
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->kind, DeviceFaultKind::kXid);
  EXPECT_EQ(fault->code, 79);
  EXPECT_EQ(fault->device, "0000:2B:00.0");
  EXPECT_EQ(fault->text, "0000:2B:00.0: Xid 79, 0000:1B:00.0: Xid 48: it is broken");
  EXPECT_EQ(fault->exit_code(), kExitSickDevice);
}

TEST_F(DeviceWatchTest, WhoeverAsksLaterIsToldTheSame) {
  setenv("FAKE_NVML_XIDS", "79:1", 1);
  const auto watch = Listen();
  ASSERT_TRUE(watch->AskDriver().has_value());
  ASSERT_TRUE(watch->Find().has_value()) << "the driver tells each event once";
  EXPECT_EQ(watch->Find()->code, 79);
}

TEST_F(DeviceWatchTest, CountsUncorrectableErrors) {
  setenv("FAKE_NVML_ECC", "5", 1);
  const auto watch = Listen();
  EXPECT_FALSE(watch->Find().has_value()) << "these were there before";
  setenv("FAKE_NVML_ECC", "7", 1);
  const auto fault = watch->Find();
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->kind, DeviceFaultKind::kEcc);
  EXPECT_EQ(fault->code, 2);
}

TEST_F(DeviceWatchTest, AnIdleWorkerFailsWithinTwoSecondsOfAnErrorOfTheDriver) {
  setenv("FAKE_NVML_ECC", "0", 1);
  const std::shared_ptr<DeviceWatch> watch = Listen();
  std::promise<absl::Status> failed;
  WorkerOptions options;
  options.layout = "serial";
  options.ranks = 2;
  options.process_start = absl::Now();
  options.load = [] { return LoadFakeGroup(2, {}); };
  options.on_failed = [&failed](const absl::Status& failure) { failed.set_value(failure); };
  options.find_device_fault = [watch] { return watch->Find(); };
  Worker worker(std::move(options));
  while (worker.Describe().state != WorkerState::kReady) absl::SleepFor(absl::Milliseconds(1));
  const DeviceAlarm alarm(
      [watch] { return watch->AskDriver(); }, absl::Milliseconds(100),
      [&worker](const DeviceFault& fault) { worker.Fail(absl::UnavailableError(fault.text)); });
  absl::SleepFor(absl::Milliseconds(250));
  EXPECT_EQ(worker.Describe().state, WorkerState::kReady);
  setenv("FAKE_NVML_ECC", "1", 1);
  auto failure = failed.get_future();
  ASSERT_EQ(failure.wait_for(std::chrono::seconds(2)), std::future_status::ready);
  EXPECT_THAT(std::string(failure.get().message()), HasSubstr("1 uncorrectable ECC errors"));
  const Worker::Snapshot snapshot = worker.Describe();
  EXPECT_EQ(snapshot.state, WorkerState::kFailed);
  ASSERT_TRUE(snapshot.device_fault.has_value());
  EXPECT_EQ(snapshot.device_fault->device, "0000:1B:00.0");
}

TEST(DeviceAlarmTest, TellsOnceAndAsksNoMore) {
  std::atomic<int> asked = 0;
  std::atomic<int> told = 0;
  {
    const DeviceAlarm alarm(
        [&]() -> std::optional<DeviceFault> {
          return ++asked < 3 ? std::nullopt : std::optional(DeviceFault());
        },
        absl::Milliseconds(1), [&](const DeviceFault&) { ++told; });
    while (told == 0) absl::SleepFor(absl::Milliseconds(1));
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(asked, 3);
  EXPECT_EQ(told, 1);
}

TEST(DeviceAlarmTest, EndsAtOnceWhileItWaits) {
  const absl::Time begin = absl::Now();
  {
    const DeviceAlarm alarm([] { return std::nullopt; }, absl::Minutes(1), [](const auto&) {});
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

}  // namespace
}  // namespace patchflow

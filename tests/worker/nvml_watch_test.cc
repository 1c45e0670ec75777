#include "worker/nvml_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace patchflow {
namespace {

using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;

class NvmlWatchTest : public testing::Test {
 protected:
  ~NvmlWatchTest() override {
    for (const char* name : {"FAKE_NVML_XIDS", "FAKE_NVML_ECC", "FAKE_NVML_BROKEN"}) {
      unsetenv(name);
    }
  }
  static absl::StatusOr<std::unique_ptr<NvmlWatch>> Open() {
    return NvmlWatch::Open(FAKE_NVML, {"0000:1B:00.0", "0000:2B:00.0"});
  }
};

TEST_F(NvmlWatchTest, TellsXidErrorsThatMeanABrokenDevice) {
  setenv("FAKE_NVML_XIDS", "31:0,79:1,13:1,48:0", 1);
  const auto watch = Open();
  ASSERT_TRUE(watch.ok()) << watch.status();
  EXPECT_THAT((*watch)->TakeFaults(),
              ElementsAre(Field(&DeviceFault::text, "0000:2B:00.0: Xid 79"),
                          Field(&DeviceFault::text, "0000:1B:00.0: Xid 48")));
  EXPECT_THAT((*watch)->TakeFaults(), IsEmpty());
}

TEST_F(NvmlWatchTest, TellsEccErrorsThatCameSinceItListened) {
  setenv("FAKE_NVML_ECC", "5", 1);
  const auto watch = Open();
  ASSERT_TRUE(watch.ok()) << watch.status();
  EXPECT_THAT((*watch)->TakeFaults(), IsEmpty()) << "these were there before";
  setenv("FAKE_NVML_ECC", "7", 1);
  EXPECT_THAT((*watch)->TakeFaults(),
              ElementsAre(Field(&DeviceFault::text, "0000:1B:00.0: 2 uncorrectable ECC errors")));
  EXPECT_THAT((*watch)->TakeFaults(), IsEmpty());
}

TEST_F(NvmlWatchTest, SaysWhatIsMissing) {
  EXPECT_TRUE(absl::IsNotFound(NvmlWatch::Open("libno-such-nvml.so.1", {}).status()));
  EXPECT_TRUE(absl::IsNotFound(NvmlWatch::Open("libc.so.6", {}).status())) << "not NVML";
  EXPECT_TRUE(absl::IsUnavailable(NvmlWatch::Open(FAKE_NVML, {"0000:9B:00.0"}).status()));
  setenv("FAKE_NVML_BROKEN", "1", 1);
  EXPECT_TRUE(absl::IsUnavailable(Open().status()));
}

TEST_F(NvmlWatchTest, AFaultyKernelDoesNotBreakADevice) {
  for (const unsigned xid : {13U, 31U, 43U, 45U, 63U}) EXPECT_FALSE(XidMeansBrokenDevice(xid));
}

}  // namespace
}  // namespace patchflow

#include "worker/device_fault.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/exit_codes.h"

namespace patchflow {
namespace {

TEST(DeviceFaultTest, BrokenHardwareIsToldFromErrorsThatANewProcessIsRidOf) {
  for (const int broken : {214, 220, 226}) {
    EXPECT_EQ(FaultOfCudaError(broken, "cuda:0")->exit_code(), kExitSickDevice) << broken;
  }
  const auto illegal = FaultOfCudaError(700, "cuda:1");
  EXPECT_EQ(illegal->text, "cuda:1 gives CUDA error 700 (cudaErrorIllegalAddress)");
  EXPECT_EQ(illegal->exit_code(), 100);
  EXPECT_EQ(FaultOfCudaError(719, "cuda:0")->exit_code(), 119);
  EXPECT_EQ(illegal->device, "cuda:1");
  EXPECT_EQ(illegal->code, 700);
  EXPECT_EQ(FaultOfCudaError(214, "cuda:0")->kind, DeviceFaultKind::kEcc);
  EXPECT_EQ(FaultOfCudaError(220, "cuda:0")->kind, DeviceFaultKind::kNvlink);
}

TEST(DeviceFaultTest, OtherErrorsSayNothingOfTheDevice) {
  for (const int code : {0, 1, 2, 600, 701, 900, 999}) {
    EXPECT_FALSE(FaultOfCudaError(code, "cuda:0").has_value()) << code;
  }
}

}  // namespace
}  // namespace patchflow

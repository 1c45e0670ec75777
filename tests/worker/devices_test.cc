#include "worker/devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace patchflow {
namespace {

using ::testing::HasSubstr;

TEST(DevicesTest, CpusComputeInFloat32AndRefuseWhatIsNarrower) {
  for (const char* dtype : {"auto", "float32"}) {
    const absl::StatusOr<Devices> devices = ChooseDevices("cpu", dtype, 2, 0);
    ASSERT_TRUE(devices.ok()) << devices.status();
    EXPECT_EQ(devices->dtype, at::kFloat);
    EXPECT_EQ(devices->dtype_name, "float32");
  }
  for (const char* dtype : {"bfloat16", "float16", "float8"}) {
    const absl::Status status = ChooseDevices("cpu", dtype, 1, 0).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << dtype;
    EXPECT_EQ(status.message(),
              std::string("--dtype: ") + dtype + ": CPUs compute in float32 alone");
  }
}

TEST(DevicesTest, ADtypeThatThereIsNotIsNamedBesideThoseThatThereAre) {
  const absl::Status status = ChooseDevices("cpu", "float4", 1, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("'float4' is none of auto, float32, bfloat16, float16, float8"));
}

}  // namespace
}  // namespace patchflow

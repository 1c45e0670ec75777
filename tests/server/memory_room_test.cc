#include "server/memory_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/errors.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kPlenty = 1000 * kGiB;

GroupMemory OnGpu(int64_t peak, int64_t total) {
  GroupMemory group{"main", {}};
  worker::v1::RankStatus rank;
  rank.set_device("NVIDIA H100");
  rank.set_memory_used_bytes(peak / 2);
  rank.set_memory_peak_bytes(peak);
  rank.set_memory_total_bytes(total);
  group.ranks = {rank};
  return group;
}

TEST(MemoryRoomTest, TakesTwoVersionsThatFitAGpu) {
  EXPECT_TRUE(CheckRoom({OnGpu(30 * kGiB, 80 * kGiB)}, kGiB, kGiB, kPlenty).ok());
}

TEST(MemoryRoomTest, RefusesASecondVersionThatDoesNotFitAGpu) {
  const absl::Status status = CheckRoom({OnGpu(40 * kGiB, 80 * kGiB)}, kGiB, kGiB, kPlenty);
  EXPECT_EQ(ReasonOf(status), "NOT_ENOUGH_MEMORY");
  EXPECT_EQ(MetadataOf(status, "needed_bytes"), "44560285696");  // 41.5 GiB.
  EXPECT_EQ(MetadataOf(status, "free_bytes"), "41339060224");    // 38.5 GiB.
  EXPECT_THAT(status.message(), HasSubstr("group main, rank 0 on NVIDIA H100"));
}

TEST(MemoryRoomTest, CountsWeightsThatGrow) {
  EXPECT_TRUE(CheckRoom({OnGpu(30 * kGiB, 80 * kGiB)}, 2 * kGiB, kGiB, kPlenty).ok());
  EXPECT_FALSE(CheckRoom({OnGpu(30 * kGiB, 80 * kGiB)}, kGiB, 2 * kGiB, kPlenty).ok());
}

TEST(MemoryRoomTest, CountsTheWeightsOfCpusTwiceAndOfEveryGroup) {
  const GroupMemory cpu{"main", {worker::v1::RankStatus()}};
  EXPECT_TRUE(CheckRoom({cpu}, kGiB, kGiB, 3 * kGiB).ok());
  EXPECT_FALSE(CheckRoom({cpu}, kGiB, kGiB, 2 * kGiB).ok());
  EXPECT_FALSE(CheckRoom({cpu, cpu}, kGiB, kGiB, 3 * kGiB).ok());
  EXPECT_TRUE(CheckRoom({cpu}, kGiB, kGiB, -1).ok()) << "not known";
}

TEST(MemoryRoomTest, ReadsWhatTheHostHas) {
  ScratchFolder root;
  EXPECT_EQ(AvailableHostMemory(root.path()), -1);
  root.Write("proc/meminfo", "MemTotal: 4000 kB\nMemFree: 10 kB\nMemAvailable: 3000 kB\n");
  EXPECT_EQ(AvailableHostMemory(root.path()), 3000 << 10);
  root.Write("sys/fs/cgroup/memory.max", "max\n");
  root.Write("sys/fs/cgroup/memory.current", "900000\n");
  EXPECT_EQ(AvailableHostMemory(root.path()), 3000 << 10);
  root.Write("sys/fs/cgroup/memory.max", "1000000\n");
  root.Write("sys/fs/cgroup/memory.stat", "anon 7\ninactive_file 50000\n");
  EXPECT_EQ(AvailableHostMemory(root.path()), 150000);
  root.Write("sys/fs/cgroup/memory.current", "1200000\n");
  EXPECT_EQ(AvailableHostMemory(root.path()), 0);
}

}  // namespace
}  // namespace patchflow

#include "server/config_batching.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "server/config.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class ConfigBatchingTest : public ::testing::Test {
 protected:
  ConfigBatchingTest() { std::filesystem::create_directories(folder_.path("m")); }

  absl::StatusOr<ServerConfig> Parse(const std::string& keys) {
    return ParseConfig(absl::StrCat("groups:\n  - {", keys, "}\n"), "s.yaml", folder_.path());
  }
  int SizeOf(const std::string& keys) {
    const auto config = Parse(keys);
    EXPECT_TRUE(config.ok()) << config.status();
    return config->groups[0].batch_size;
  }
  std::string Faults(const std::string& keys) {
    return std::string(Parse(keys).status().message());
  }

  const ScratchFolder folder_;
};

TEST_F(ConfigBatchingTest, IsOffUnlessAskedFor) {
  EXPECT_EQ(SizeOf("model: m"), 1);
  EXPECT_EQ(SizeOf("model: m, batching: false"), 1);
  EXPECT_EQ(SizeOf("model: m, batching: true"), 4);
  EXPECT_EQ(SizeOf("model: m, batching: true, batch_size: 16"), 16);
  EXPECT_EQ(SizeOf("workers: ['127.0.0.1:1'], model_name: m, batching: true, batch_size: 2"), 2);
  EXPECT_EQ(SizeOf("model: m, ranks: 2, layout: {ring: 2}, batching: true"), 4);
}

TEST_F(ConfigBatchingTest, RefusesASizeWithoutBatching) {
  for (const char* keys : {"model: m, batch_size: 4", "model: m, batching: false, batch_size: 4"}) {
    EXPECT_EQ(Faults(keys),
              "s.yaml:2: groups[0].batch_size: has no meaning without 'batching: true'");
  }
}

TEST_F(ConfigBatchingTest, RefusesSizesThatNoEngineMakes) {
  for (const char* size : {"1", "17", "0", "-4"}) {
    EXPECT_THAT(Faults(absl::StrCat("model: m, batching: true, batch_size: ", size)),
                HasSubstr("s.yaml:2: groups[0].batch_size: "))
        << size;
  }
}

TEST_F(ConfigBatchingTest, RefusesGroupsOfSeveralWorkers) {
  const char* fault =
      "s.yaml:2: groups[0].batching: is for groups of one worker process; this one's ranks are "
      "shared by 2";
  EXPECT_EQ(Faults("model: m, ranks: 2, processes: 2, batching: true"), fault);
  EXPECT_EQ(Faults("workers: ['127.0.0.1:1', '127.0.0.1:2'], model_name: m, batching: true"),
            fault);
}

}  // namespace
}  // namespace patchflow

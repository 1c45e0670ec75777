#include "engine/text/relative_bias.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace patchflow {
namespace {

TEST(DistanceBucketsTest, EqualTransformers) {
  const auto cases = nlohmann::json::parse(std::ifstream("tests/golden/t5/buckets.json"));
  ASSERT_GE(cases.size(), 6);
  for (const auto& c : cases) {
    const Tensor found = DistanceBuckets(c["num_buckets"], c["max_distance"]);
    EXPECT_TRUE(at::equal(found, at::tensor(c["buckets"].get<std::vector<int64_t>>(), at::kLong)))
        << c["num_buckets"] << " " << c["max_distance"];
  }
}

TEST(RelativeBiasTest, DependsOnDistanceAloneAndEndsAtItsMaximum) {
  const int64_t buckets = 8;
  const int64_t max_distance = 6;
  const Tensor table = at::arange(buckets * 3, at::kFloat).view({buckets, 3});
  const Tensor by_distance = DistanceBuckets(buckets, max_distance);
  for (const int64_t length : {1, 5, 40}) {
    const Tensor bias = RelativeBias(table, max_distance)(length);
    ASSERT_EQ(bias.sizes(), (std::vector<int64_t>{1, 3, length, length}));
    for (int64_t query = 0; query < length; ++query) {
      for (int64_t key = 0; key < length; ++key) {
        const int64_t distance = std::clamp(key - query, -max_distance, max_distance);
        const auto bucket = by_distance[distance + max_distance].item<int64_t>();
        ASSERT_EQ(bias[0][2][query][key].item<float>(), table[bucket][2].item<float>());
      }
    }
  }
}

}  // namespace
}  // namespace patchflow

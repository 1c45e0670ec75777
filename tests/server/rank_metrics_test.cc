#include "server/rank_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <tuple>

namespace patchflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class RankMetricsTest : public ::testing::Test {
 protected:
  std::string Text() {
    metrics_.Refresh();
    return prometheus::TextSerializer().Serialize(registry_.Collect());
  }
  // By name and labels, as written.
  std::map<std::string, double> Samples() {
    std::map<std::string, double> samples;
    std::istringstream lines(Text());
    std::string line;
    while (std::getline(lines, line)) {
      if (line.rfind('#', 0) != 0) {
        samples[line.substr(0, line.rfind(' '))] = std::stod(line.substr(line.rfind(' ') + 1));
      }
    }
    return samples;
  }
  // Series with this label.
  int64_t SeriesWith(const std::string& label) {
    const auto samples = Samples();
    return std::count_if(samples.begin(), samples.end(), [&](const auto& sample) {
      return sample.first.find(label) != std::string::npos;
    });
  }
  static worker::v1::WatchResponse BeatOf(int ranks, const std::string& device = "NVIDIA H200") {
    worker::v1::WatchResponse beat;
    for (int i = 0; i < ranks; ++i) {
      auto* rank = beat.add_ranks();
      rank->set_rank(i);
      rank->set_device(device);
      auto* sent = rank->add_communication_times();
      sent->set_operation("p2p");
      sent->set_calls(1);
      sent->set_bytes(100);
    }
    return beat;
  }

  prometheus::Registry registry_;
  RankMetrics metrics_{registry_};
};

TEST_F(RankMetricsTest, ARankThatIsNoMoreLeavesNoSeries) {
  metrics_.Beat("g", BeatOf(2));
  metrics_.Beat("other", BeatOf(2));
  const int64_t of_one = SeriesWith("rank=\"1\"");
  ASSERT_GT(of_one, 20) << "of two groups";
  metrics_.Beat("g", BeatOf(1));
  EXPECT_EQ(SeriesWith("group=\"g\",rank=\"1\""), 0);
  EXPECT_EQ(SeriesWith("rank=\"1\""), of_one / 2) << "the other group keeps its own";
  EXPECT_EQ(SeriesWith("rank=\"0\""), of_one);
}

TEST_F(RankMetricsTest, ARankThatComesBackCountsFromZero) {
  const std::string name = R"(patchflow_communication_bytes_total{group="g",op="p2p",rank="1"})";
  metrics_.Beat("g", BeatOf(2));
  metrics_.Beat("g", BeatOf(1));
  auto beat = BeatOf(2);
  beat.mutable_ranks(1)->mutable_communication_times(0)->set_bytes(7);
  metrics_.Beat("g", beat);
  EXPECT_EQ(Samples().at(name), 7);
}

TEST_F(RankMetricsTest, AGroupThatIsDownForAMomentKeepsItsSeries) {
  metrics_.Beat("g", BeatOf(2));
  const auto before = Samples();
  metrics_.Beat("g", {});
  metrics_.Beat("g", BeatOf(2, /*device=*/""));  // It loads.
  const auto after = Samples();
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [name, value] : before) {
    EXPECT_EQ(after.count(name), 1U) << name;
  }
}

TEST_F(RankMetricsTest, TellsOnlyTheDeviceThatARankHasNow) {
  metrics_.Beat("g", BeatOf(1, "NVIDIA H100"));
  metrics_.Beat("g", BeatOf(1, "NVIDIA H200"));
  EXPECT_THAT(Text(), Not(HasSubstr("H100")));
  EXPECT_THAT(Text(),
              HasSubstr(R"(patchflow_rank_info{device="NVIDIA H200",group="g",rank="0"} 1)"));
}

TEST_F(RankMetricsTest, TellsTheDevicesUseAndWhatTensorsHaveOfIt) {
  auto beat = BeatOf(1);
  auto* rank = beat.mutable_ranks(0);
  rank->set_memory_used_bytes(1);
  rank->set_memory_reserved_bytes(2);
  rank->set_memory_peak_bytes(3);
  rank->set_device_used_bytes(4);
  rank->set_device_peak_bytes(5);
  rank->set_memory_total_bytes(6);
  metrics_.Beat("g", beat);
  const auto samples = Samples();
  for (const auto& [kind, bytes] : {std::pair{"torch_allocated", 1},
                                    {"torch_reserved", 2},
                                    {"torch_peak", 3},
                                    {"used", 4},
                                    {"peak", 5},
                                    {"total", 6}}) {
    EXPECT_EQ(samples.at(std::string("patchflow_gpu_memory_bytes{group=\"g\",kind=\"") + kind +
                         "\",rank=\"0\"}"),
              bytes)
        << kind;
  }
}

TEST_F(RankMetricsTest, CountsOperationsOnAcrossWorkers) {
  worker::v1::WatchResponse beat;
  beat.add_ranks()->set_rank(1);
  const auto counted = [&](int64_t calls, uint64_t bytes, int64_t ms) {
    auto& rank = *beat.mutable_ranks(0);
    rank.clear_communication_times();
    auto& time = *rank.add_communication_times();
    time.set_operation("all2all");
    time.set_calls(calls);
    time.set_bytes(bytes);
    *time.mutable_time() = ToProto(absl::Milliseconds(ms));
    metrics_.Beat("g", beat);
    const auto samples = Samples();
    const std::string labels = R"({group="g",op="all2all",rank="1"})";
    return std::tuple(samples.at("patchflow_comm_operations_total" + labels),
                      samples.at("patchflow_communication_bytes_total" + labels),
                      samples.at("patchflow_comm_duration_seconds_total" + labels));
  };
  EXPECT_EQ(counted(2, 100, 500), std::tuple(2.0, 100.0, 0.5));
  EXPECT_EQ(counted(6, 150, 750), std::tuple(6.0, 150.0, 0.75));
  EXPECT_EQ(counted(1, 30, 250), std::tuple(7.0, 180.0, 1.0)) << "a new worker counts from 0";
}

TEST_F(RankMetricsTest, TellsOnlyWhatAGroupRunsNow) {
  worker::v1::DescribeResponse info;
  info.set_layout("ring=2");
  metrics_.Describe("g", info);
  info.set_layout("ulysses=2");
  metrics_.Describe("g", info);
  EXPECT_THAT(Text(), Not(HasSubstr("ring=2")));
  EXPECT_THAT(Text(), HasSubstr("ulysses=2"));
}

}  // namespace
}  // namespace patchflow

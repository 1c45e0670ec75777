#include "server/check_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/server/pixart_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

// With the driver's library of tests/worker/fake_nvml.cc.
class CheckDevicesTest : public ::testing::Test {
 protected:
  CheckDevicesTest() {
    WritePixartFolder(folder_, "m");
    group_ = {.name = "g",
              .model = folder_.path("m"),
              .model_name = "m",
              .device = "cuda",
              .layout = "",
              .workers = {}};
    Set("GPUS", "2");
    Set("GIB", "80");
  }
  ~CheckDevicesTest() override {
    for (const char* name : {"GPUS", "GIB", "NVLINK", "LEVEL", "BROKEN"}) {
      unsetenv((std::string("FAKE_NVML_") + name).c_str());
    }
  }
  static void Set(const std::string& name, const char* value) {
    setenv(("FAKE_NVML_" + name).c_str(), value, 1);
  }
  std::vector<CheckRow> Rows(const char* visible = nullptr) const {
    return CheckDevices(group_, "", FindGpus(FAKE_NVML, visible));
  }
  CheckRow Row(const std::string& what, const char* visible = nullptr) const {
    const auto rows = Rows(visible);
    for (const CheckRow& row : rows) {
      if (row.what == what) {
        return row;
      }
    }
    ADD_FAILURE() << "no row " << what << " in\n" << CheckTable(rows);
    return {};
  }
  void TakeRanks(int ranks, const std::string& layout) {
    group_.ranks = ranks;
    group_.layout = layout;
  }

  ScratchFolder folder_;
  GroupConfig group_;
};

TEST_F(CheckDevicesTest, ShowsNoMemoryOfALayoutThatDoesNotFit) {
  EXPECT_EQ(Rows().back().what, "memory 1024x1024");
  const auto rows = CheckDevices(group_, "", FindGpus(FAKE_NVML, nullptr), false);
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].what, "devices");
}

TEST_F(CheckDevicesTest, NamesTheGpusOfAGroup) {
  const CheckRow row = Row("devices");
  EXPECT_EQ(row.verdict, CheckRow::kGood);
  EXPECT_EQ(row.text, "1 of 2 GPUs: Fake H1 of 80.00 GiB (00000000:1B:00.0); driver 570.86.10");
}

TEST_F(CheckDevicesTest, FindsThatThereAreTooFew) {
  TakeRanks(4, "ulysses=4");
  EXPECT_EQ(Row("devices").verdict, CheckRow::kBad);
  EXPECT_THAT(Row("devices").text, HasSubstr("4 GPUs are asked for, 2 found: Fake H1"));
  Set("BROKEN", "1");
  EXPECT_EQ(Row("devices").verdict, CheckRow::kBad);
  EXPECT_THAT(Row("devices").text, HasSubstr("4 GPUs are asked for: NVML can't be initialized"));
}

TEST_F(CheckDevicesTest, LooksAtTheGpusFromTheFirstOneOn) {
  group_.first_gpu = 1;
  EXPECT_THAT(Row("devices").text, HasSubstr("1 of 2 GPUs: Fake H1 of 80.00 GiB (00000000:2B"));
  EXPECT_THAT(Row("memory 1024x1024").text, HasSubstr(" of 80.00 GiB"));
  TakeRanks(2, "ulysses=2");
  EXPECT_EQ(Row("devices").verdict, CheckRow::kBad);
  EXPECT_THAT(Row("devices").text,
              HasSubstr("2 GPUs from number 1 on are asked for, 2 found: Fake H1"));
  group_.first_gpu = 5;
  EXPECT_EQ(Row("devices").verdict, CheckRow::kBad);
}

TEST_F(CheckDevicesTest, TakesWhatCudaShows) {
  EXPECT_THAT(Row("devices", "1").text,
              HasSubstr("1 of 1 GPUs: Fake H1 of 80.00 GiB (00000000:2B"));
  EXPECT_THAT(Row("devices", "1,0").text,
              HasSubstr("1 of 2 GPUs: Fake H1 of 80.00 GiB (00000000:2B"));
  EXPECT_EQ(Row("devices", "").verdict, CheckRow::kBad);
  EXPECT_EQ(Row("devices", "7,0").verdict, CheckRow::kBad)
      << "the first that is none ends the list";
  EXPECT_EQ(Row("devices", "GPU-8f").verdict, CheckRow::kWarning);
}

TEST_F(CheckDevicesTest, AsksForNoGpuOnCpus) {
  group_.device = "cpu";
  EXPECT_EQ(Row("devices").text, "device cpu: no GPU is asked for");
  group_.device = "auto";
  EXPECT_THAT(Row("devices").text, HasSubstr("1 of 2 GPUs"));
  const auto rows = CheckDevices(group_, "", FindGpus("libno-such-driver.so", nullptr));
  EXPECT_EQ(rows[0].verdict, CheckRow::kGood);
  EXPECT_THAT(rows[0].text, HasSubstr("device auto: CPUs, as there is no NVIDIA driver"));
}

TEST_F(CheckDevicesTest, TellsTheLinks) {
  TakeRanks(2, "ulysses=2");
  EXPECT_EQ(Row("links").text, "not known between all");
  Set("LEVEL", "50");
  EXPECT_EQ(Row("links").verdict, CheckRow::kWarning);
  EXPECT_THAT(Row("links").text, HasSubstr("the link between processors between all"));
  Set("LEVEL", "20");
  EXPECT_EQ(Row("links").text, "a PCIe switch between all");
  Set("NVLINK", "1");
  EXPECT_EQ(Row("links").verdict, CheckRow::kGood);
  EXPECT_EQ(Row("links").text, "NVLink between all");
}

TEST_F(CheckDevicesTest, TellsTheMemoryOfEachRankAndSize) {
  TakeRanks(2, "pipefusion=2,blocks=10+18");
  group_.warmup = {"1024x1024", "2048x1024"};
  const CheckRow row = Row("memory 1024x1024");
  EXPECT_EQ(row.verdict, CheckRow::kGood);
  EXPECT_THAT(row.text, HasSubstr("rank 0: 9.37 weights + 0.35 caches + 1.00 work + 1.50 CUDA = "
                                  "about 12.22 of 80.00 GiB; rank 1: "));
  EXPECT_THAT(Row("memory 2048x1024").text, HasSubstr("0.70 caches"));
  TakeRanks(2, "pipefusion=2,blocks=10+18,shared_text=1");
  EXPECT_THAT(Row("memory 1024x1024").text, HasSubstr("rank 0: 4.94 weights"));
  TakeRanks(2, "ulysses=2");
  EXPECT_THAT(Row("memory 1024x1024").text, HasSubstr("ranks 0-1: "));
}

TEST_F(CheckDevicesTest, FindsWhatDoesNotFit) {
  Set("GIB", "13");
  EXPECT_EQ(Row("memory 1024x1024").verdict, CheckRow::kWarning) << "12.85 of 13";
  Set("GIB", "12");
  EXPECT_EQ(Row("memory 1024x1024").verdict, CheckRow::kBad);
  group_.dtype = "float32";
  Set("GIB", "20");
  EXPECT_EQ(Row("memory 1024x1024").verdict, CheckRow::kBad) << "twice as much";
}

TEST_F(CheckDevicesTest, ShowsTheMemoryWithoutGpusToo) {
  group_.device = "cpu";
  const CheckRow row = Row("memory 1024x1024");
  EXPECT_EQ(row.verdict, CheckRow::kGood);
  EXPECT_THAT(row.text, HasSubstr("rank 0: 20.17 weights + 0.00 caches"));
  EXPECT_THAT(row.text, ::testing::EndsWith(" GiB"));
  EXPECT_THAT(row.text, ::testing::Not(HasSubstr(" of ")));
}

TEST_F(CheckDevicesTest, SaysThatGroupsShareGpus) {
  ServerConfig config;
  config.groups = {group_, group_};
  config.groups[1].name = "h";
  const auto rows = CheckSharedDevices(config, FindGpus(FAKE_NVML, nullptr));
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].verdict, CheckRow::kWarning);
  EXPECT_THAT(rows[0].text, HasSubstr("GPU 0: g, h; what they need adds up"));
  config.groups[0].ranks = 2;
  config.groups[1].first_gpu = 1;
  EXPECT_THAT(CheckSharedDevices(config, FindGpus(FAKE_NVML, nullptr))[0].text,
              HasSubstr("GPU 1: g, h;"));
  config.groups[0].ranks = 1;
  EXPECT_TRUE(CheckSharedDevices(config, FindGpus(FAKE_NVML, nullptr)).empty());
  config.groups[1].first_gpu = 0;
  config.groups[1].device = "cpu";
  EXPECT_TRUE(CheckSharedDevices(config, FindGpus(FAKE_NVML, nullptr)).empty());
}

}  // namespace
}  // namespace patchflow

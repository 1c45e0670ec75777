#include "server/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/weight_files.h"
#include "tests/server/pixart_folder.h"
#include "tests/server/scratch_pki.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

const char kHeader[] = R"({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})";

class CheckTest : public ::testing::Test {
 protected:
  CheckTest() {
    pki_.Write("model/model_index.json",
               R"({"_class_name": "P", "vae": ["diffusers", "AutoencoderKL"]})");
    pki_.Write("model/vae/weights.safetensors", Safetensors(kHeader, 16));
    config_.worker_binary = "/bin/true";
    config_.listen = "127.0.0.1:0";
    config_.groups.push_back({.name = "g",
                              .model = pki_.path("model"),
                              .model_name = "m",
                              .device = "cpu",
                              .layout = "",
                              .workers = {}});
  }
  CheckRow Row(const std::string& what) {
    for (const CheckRow& row : CheckConfig(config_)) {
      if (row.what == what) {
        return row;
      }
    }
    ADD_FAILURE() << "no row " << what << " in\n" << CheckTable(CheckConfig(config_));
    return {};
  }
  std::string WeightFault() {
    return std::string(CheckWeightFiles(pki_.path("model")).status().message());
  }

  ScratchPki pki_;
  ServerConfig config_;
};

TEST_F(CheckTest, PassesWhatCanWork) {
  pki_.MakePair("tls", "tls");
  config_.security.tls.certificate = pki_.path("tls.crt");
  config_.security.tls.key = pki_.path("tls.key");
  config_.store.directory = pki_.path("store/that/is/made");
  const auto rows = CheckConfig(config_);
  EXPECT_TRUE(CheckPassed(rows)) << CheckTable(rows);
  EXPECT_THAT(Row("groups[g].model").text, HasSubstr("1 files of weights"));
  EXPECT_FALSE(std::filesystem::exists(config_.store.directory)) << "nothing is written";
}

TEST_F(CheckTest, LooksAtWhatWorkersAreShown) {
  pki_.MakePair("link", "front", 3);
  TlsConfig& tls = config_.security.workers.tls;
  tls.certificate = pki_.path("link.crt");
  tls.key = pki_.path("link.key");
  tls.client_ca = pki_.path("ca.crt");
  EXPECT_EQ(Row("security.workers").verdict, CheckRow::kWarning);
  EXPECT_THAT(Row("security.workers").text,
              HasSubstr("in 2 days), workers' certificates demanded"));
  tls.client_ca = pki_.path("link.key");
  EXPECT_EQ(Row("security.workers").verdict, CheckRow::kBad);
  EXPECT_THAT(Row("security.workers").text, HasSubstr("security.workers.ca: "));
  pki_.MakePair("old", "front", -1);
  tls.certificate = pki_.path("old.crt");
  tls.key = pki_.path("old.key");
  EXPECT_THAT(Row("security.workers").text, HasSubstr("expired"));
}

TEST_F(CheckTest, WarnsBeforeACertificateExpires) {
  pki_.MakePair("tls", "tls", 3);
  config_.security.tls.certificate = pki_.path("tls.crt");
  config_.security.tls.key = pki_.path("tls.key");
  EXPECT_EQ(Row("security.tls").verdict, CheckRow::kWarning);
  EXPECT_THAT(Row("security.tls").text, HasSubstr("in 2 days"));
  config_.security.tls.key = pki_.path("ca.key");
  EXPECT_EQ(Row("security.tls").verdict, CheckRow::kBad);
}

TEST_F(CheckTest, LooksAtPorts) {
  config_.metrics = "unix:/m";
  EXPECT_EQ(Row("server.metrics").verdict, CheckRow::kBad);
  EXPECT_EQ(Row("server.listen").verdict, CheckRow::kGood);
}

TEST_F(CheckTest, ComparesTheLayoutWithTheRanks) {
  config_.groups[0].ranks = 4;
  config_.groups[0].layout = "pipefusion=2,patches=8,guidance=2";
  EXPECT_EQ(Row("groups[g].layout").verdict, CheckRow::kGood);
  config_.groups[0].layout = "ulysses=2";
  EXPECT_EQ(Row("groups[g].layout").verdict, CheckRow::kBad);
  EXPECT_THAT(Row("groups[g].layout").text, HasSubstr("for 2 ranks, the group has 4"));
}

TEST_F(CheckTest, AsksTheWorkerAndShowsNoMemoryOfWhatItRefuses) {
  WritePixartFolder(pki_, "pixart");
  config_.groups[0].model = pki_.path("pixart");
  config_.groups[0].warmup = {"1024x512"};
  EXPECT_EQ(Row("groups[g].worker").verdict, CheckRow::kGood);
  EXPECT_THAT(Row("groups[g].memory 1024x512").text, HasSubstr("rank 0: "));
  pki_.Write("worker", "#!/bin/sh\necho '{\"msg\": \"refused\", \"why\": \"3 heads\"}'; exit 2\n");
  std::filesystem::permissions(pki_.path("worker"), std::filesystem::perms::owner_all);
  config_.worker_binary = pki_.path("worker");
  EXPECT_EQ(Row("groups[g].worker").verdict, CheckRow::kBad);
  EXPECT_EQ(Row("groups[g].worker").text, "3 heads");
  for (const CheckRow& row : CheckConfig(config_)) {
    EXPECT_NE(row.what, "groups[g].memory 1024x512");
  }
}

TEST_F(CheckTest, FindsAbsentTokensAndWorker) {
  config_.security.tokens = pki_.path("absent");
  config_.worker_binary = pki_.path("no-worker");
  EXPECT_EQ(Row("security.tokens").verdict, CheckRow::kBad);
  EXPECT_EQ(Row("worker_binary").verdict, CheckRow::kBad);
  EXPECT_EQ(Row("groups[g].worker").verdict, CheckRow::kWarning);
  EXPECT_FALSE(CheckPassed(CheckConfig(config_)));
}

TEST_F(CheckTest, FindsWeightsThatAreCutOrAbsent) {
  EXPECT_EQ(WeightFault(), "");
  pki_.Write("model/vae/weights.safetensors", Safetensors(kHeader, 15));
  EXPECT_THAT(WeightFault(), HasSubstr("weights.safetensors: has 85 bytes; its header says 86"));
  pki_.Write("model/vae/weights.safetensors", "short");
  EXPECT_THAT(WeightFault(), HasSubstr("has no header of safetensors"));
  pki_.Write("model/vae/weights.safetensors", std::string(8, '\xff'));
  EXPECT_THAT(WeightFault(), HasSubstr("has no header of safetensors"));
  pki_.Write("model/vae/weights.safetensors", Safetensors("[]", 0));
  EXPECT_THAT(WeightFault(), HasSubstr("no JSON object"));
  pki_.Write("model/vae/weights.safetensors",
             Safetensors(R"({"w": {"data_offsets": [0, -1]}})", 0));
  EXPECT_THAT(WeightFault(), HasSubstr("tensor w has no data_offsets"));
  std::filesystem::remove(pki_.path("model/vae/weights.safetensors"));
  EXPECT_THAT(WeightFault(), HasSubstr("holds no *.safetensors"));
}

TEST_F(CheckTest, FindsShardsAndComponentsThatAreAbsent) {
  pki_.Write("model/vae/w.safetensors.index.json", R"({"weight_map": {"a": "w-1.safetensors"}})");
  EXPECT_THAT(WeightFault(), HasSubstr("tensor a is in \"w-1.safetensors\", which is not there"));
  std::filesystem::remove_all(pki_.path("model/vae"));
  EXPECT_THAT(WeightFault(), HasSubstr("vae: is not there; model_index.json names it"));
  pki_.Write("model/model_index.json", "{");
  EXPECT_THAT(WeightFault(), HasSubstr("model_index.json: is no JSON object"));
}

TEST(CheckTableTest, HasALineForEachRow) {
  EXPECT_EQ(CheckTable({{"a", CheckRow::kGood, "fine"},
                        {"longer", CheckRow::kWarning, "soon"},
                        {"b", CheckRow::kBad, "broken"}}),
            "ok    a       fine\nwarn  longer  soon\nBAD   b       broken\n");
}

TEST(WeightFilesTest, AcceptsTheBundledModel) {
  auto found = CheckWeightFiles("models/shapes-256");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_GE(found->files, 4);
}

}  // namespace
}  // namespace patchflow

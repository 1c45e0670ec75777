#include "worker/digest.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/escaping.h"
#include "tests/worker/scratch.h"

namespace patchflow {
namespace {

class DigestTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Write("model_index.json", "{}");
    Write("vae/config.json", "{}");
    Write("vae/model.safetensors", std::string(1000, 'w'));
  }
  void Write(const std::string& path, const std::string& bytes) const {
    std::filesystem::create_directories((scratch_.path() / path).parent_path());
    std::ofstream(scratch_.path() / path, std::ios::binary) << bytes;
  }
  std::string Digest(int threads = 1) const {
    const absl::StatusOr<std::string> digest = ModelDigest(scratch_.path(), threads);
    EXPECT_TRUE(digest.ok()) << digest.status();
    return digest.value_or("");
  }
  Scratch scratch_;
};

TEST_F(DigestTest, Sha256IsTheStandards) {
  EXPECT_EQ(absl::BytesToHexString(Sha256("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(DigestTest, AnyByteOfAnyFileCounts) {
  const std::string before = Digest();
  EXPECT_EQ(before.size(), 64);
  std::string weights(1000, 'w');
  weights[999] = 'x';
  Write("vae/model.safetensors", weights);
  EXPECT_NE(Digest(), before);
}

TEST_F(DigestTest, NamesCount) {
  const std::string before = Digest();
  std::filesystem::rename(scratch_.path() / "vae/model.safetensors",
                          scratch_.path() / "vae/model.fp16.safetensors");
  EXPECT_NE(Digest(), before);
}

TEST_F(DigestTest, WhatTheEngineDoesNotReadDoesNotCount) {
  const std::string before = Digest();
  Write("README.md", "words");
  Write("vae/old.bin", "weights of another format");
  Write("patchflow.json", "{}");
  EXPECT_EQ(Digest(), before);
}

TEST_F(DigestTest, ThreadsDoNotCountEvenForAFileOfSeveralRuns) {
  Write("vae/model.safetensors", std::string(130 << 20, 'w'));
  const std::string one = Digest(1);
  EXPECT_EQ(Digest(4), one);
}

TEST_F(DigestTest, AFolderThatIsNoModelIsNotFound) {
  std::filesystem::remove(scratch_.path() / "model_index.json");
  EXPECT_EQ(ModelDigest(scratch_.path(), 1).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(DigestTest, TheBuildIsNamedByItsVersionAndItsOwnBytes) {
  EXPECT_EQ(BuildId().substr(0, 6), "0.1.0+");
  EXPECT_EQ(BuildId().size(), 6 + 40);
}

TEST_F(DigestTest, EveryPartOfAPlanCounts) {
  const Plan plan{.model_digest = "m",
                  .build = "b",
                  .arithmetic = "cpu",
                  .dtype = "float32",
                  .layout = "serial",
                  .batch_size = 1};
  const std::string digest = PlanDigest(plan);
  Plan other = plan;
  other.model_digest = "n";
  EXPECT_NE(PlanDigest(other), digest);
  other = plan;
  other.build = "c";
  EXPECT_NE(PlanDigest(other), digest);
  other = plan;
  other.arithmetic = "gpu";
  EXPECT_NE(PlanDigest(other), digest);
  other = plan;
  other.dtype = "bfloat16";
  EXPECT_NE(PlanDigest(other), digest);
  other = plan;
  other.layout = "ulysses=2";
  EXPECT_NE(PlanDigest(other), digest);
  other = plan;
  other.batch_size = 2;
  EXPECT_NE(PlanDigest(other), digest);
  EXPECT_EQ(PlanDigest(plan), digest);
}

TEST_F(DigestTest, AnImageIsToldWhatItsParametersDoNotTellOfThePlan) {
  const Plan plan{.model_digest = "m",
                  .build = "b",
                  .arithmetic = "cpu",
                  .dtype = "float32",
                  .layout = "serial",
                  .batch_size = 2};
  const std::vector<std::pair<std::string, std::string>> facts = {
      {"arithmetic", "cpu"}, {"batch", "2"}, {"build", "b"}};
  EXPECT_EQ(PlanFacts(plan), facts);
}

}  // namespace
}  // namespace patchflow

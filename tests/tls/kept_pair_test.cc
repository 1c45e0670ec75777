#include "tls/kept_pair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/server/scratch_pki.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class KeptPairTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    pki_ = new ScratchPki;
    pki_->MakePair("one", "one");
    pki_->MakePair("two", "two");
  }
  static void TearDownTestSuite() { delete pki_; }

  void SetUp() override {
    Install("one.crt", "one.key");
    auto kept = KeptPair::Open({{"certificate", pki_->path("now.crt")},
                                {"key", pki_->path("now.key")},
                                {"ca", pki_->path("ca.crt")}},
                               absl::Now());
    ASSERT_TRUE(kept.ok()) << kept.status();
    kept_.emplace(*std::move(kept));
  }
  void Install(const std::string& certificate, const std::string& key) {
    pki_->Write("now.crt", pki_->Read(certificate));
    pki_->Write("now.key", pki_->Read(key));
  }
  KeptPair::Look Look() {
    return kept_->LookAgain(absl::Now(), [this](const TlsPair& pair) {
      if (use_.ok()) {
        used_.push_back(pair.subject);
      }
      return use_;
    });
  }

  static ScratchPki* pki_;
  std::optional<KeptPair> kept_;
  absl::Status use_;
  std::vector<std::string> used_;
};

ScratchPki* KeptPairTest::pki_ = nullptr;

TEST_F(KeptPairTest, UsesWhatIsNewOnce) {
  EXPECT_FALSE(Look().taken);
  Install("two.crt", "two.key");
  EXPECT_TRUE(Look().taken);
  EXPECT_FALSE(Look().taken);
  EXPECT_EQ(used_, std::vector<std::string>{"CN = two"});
  EXPECT_EQ(kept_->pair().subject, "CN = two");
}

TEST_F(KeptPairTest, KeepsTheLastGoodPairAndTellsEachFaultOnce) {
  Install("one.crt", "two.key");
  KeptPair::Look look = Look();
  EXPECT_TRUE(look.news);
  EXPECT_THAT(std::string(look.fault.message()), HasSubstr("does not belong to the certificate"));
  look = Look();
  EXPECT_FALSE(look.news);
  EXPECT_FALSE(look.fault.ok());
  pki_->Write("now.key", "garbage");
  look = Look();
  EXPECT_TRUE(look.news);
  EXPECT_THAT(std::string(look.fault.message()), HasSubstr("key: "));
  EXPECT_TRUE(used_.empty());
  EXPECT_EQ(kept_->pair().subject, "CN = one");

  Install("one.crt", "one.key");  // The old one comes back.
  look = Look();
  EXPECT_TRUE(look.fault.ok());
  EXPECT_TRUE(look.news);
  EXPECT_FALSE(look.taken);
}

TEST_F(KeptPairTest, AsksAgainForWhatCouldNotBePutIntoUse) {
  Install("two.crt", "two.key");
  use_ = absl::UnavailableError("no memory");
  EXPECT_EQ(Look().fault, use_);
  EXPECT_EQ(kept_->pair().subject, "CN = one");
  use_ = absl::OkStatus();
  EXPECT_TRUE(Look().taken);
}

}  // namespace
}  // namespace patchflow

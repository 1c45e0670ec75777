#include "tls/tls_pair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/server/scratch_pki.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class TlsPairTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    pki_ = new ScratchPki;
    pki_->MakePair("one", "one");
    pki_->MakePair("two", "two");
    pki_->MakePair("old", "old", -1);
    pki_->Write("garbage", "no PEM at all");
    pki_->Write("empty", "");
  }
  static void TearDownTestSuite() { delete pki_; }

  static absl::StatusOr<TlsPair> Read(const std::string& certificate, const std::string& key,
                                      const std::string& ca = "", absl::Time now = absl::Now()) {
    return ReadTlsPair({{"--tls-cert", pki_->path(certificate)},
                        {"--tls-key", pki_->path(key)},
                        {"--tls-ca", ca.empty() ? "" : pki_->path(ca)}},
                       now);
  }
  static std::string Fault(const absl::StatusOr<TlsPair>& pair) {
    return std::string(pair.status().message());
  }

  static ScratchPki* pki_;
};

ScratchPki* TlsPairTest::pki_ = nullptr;

TEST_F(TlsPairTest, TellsSubjectAndEnd) {
  auto pair = Read("one.crt", "one.key", "ca.crt");
  ASSERT_TRUE(pair.ok()) << pair.status();
  EXPECT_EQ(pair->subject, "CN = one");
  EXPECT_GT(pair->not_after, absl::Now() + absl::Hours(24 * 29));
  EXPECT_LT(pair->not_after, absl::Now() + absl::Hours(24 * 31));
  EXPECT_EQ(pair->certificate, pki_->Read("one.crt"));
}

TEST_F(TlsPairTest, RefusesTheKeyOfAnotherCertificate) {
  EXPECT_THAT(Fault(Read("one.crt", "two.key")), HasSubstr("does not belong to the certificate"));
}

TEST_F(TlsPairTest, RefusesWhatIsNotValidNow) {
  EXPECT_THAT(Fault(Read("old.crt", "old.key")), HasSubstr("old.crt: expired 20"));
  EXPECT_THAT(Fault(Read("one.crt", "one.key", "", absl::Now() - absl::Hours(24))),
              HasSubstr("one.crt: valid from 20"));
}

TEST_F(TlsPairTest, NamesTheFileThatIsWrong) {
  EXPECT_THAT(Fault(Read("absent", "one.key")), HasSubstr("--tls-cert: "));
  EXPECT_THAT(Fault(Read("one.crt", "")), HasSubstr("--tls-key: "));
  EXPECT_THAT(Fault(Read("one.crt", "empty")), HasSubstr("empty: cannot be read, or is empty"));
  EXPECT_THAT(Fault(Read("garbage", "one.key")), HasSubstr("garbage: holds no PEM certificate"));
  EXPECT_THAT(Fault(Read("one.crt", "garbage")), HasSubstr("garbage: holds no PEM private key"));
  EXPECT_THAT(Fault(Read("one.crt", "one.key", "garbage")),
              HasSubstr("--tls-ca: " + pki_->path("garbage")));
}

}  // namespace
}  // namespace patchflow

#include "server/tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "server/errors.h"
#include "server/guard.h"
#include "server/sha256.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kSecret[] = "a-secret-of-studio";

TokenTable Table() {
  const std::string text = R"(
tokens:
  - {name: studio, token: a-secret-of-studio, high_priority: true}
  - {name: reader, sha256: )" +
                           absl::BytesToHexString(Sha256("a-secret-of-reader")) +
                           R"(, methods: [GetGeneration, ListModels]}
)";
  auto table = TokenTable::Parse(text, "tokens.yaml");
  EXPECT_TRUE(table.ok()) << table.status();
  return *std::move(table);
}

std::string Faults(const std::string& text) {
  return std::string(TokenTable::Parse(text, "tokens.yaml").status().message());
}

TEST(TokensTest, NamesTheOwnerOfAToken) {
  auto identity = Table().Check(kSecret, "GenerateImages");
  ASSERT_TRUE(identity.ok());
  EXPECT_EQ(identity->name, "studio");
  EXPECT_EQ(identity->client, "studio");
  EXPECT_TRUE(identity->high_priority);
}

TEST(TokensTest, TakesADigestForAToken) {
  auto identity = Table().Check("a-secret-of-reader", "ListModels");
  ASSERT_TRUE(identity.ok());
  EXPECT_EQ(identity->name, "reader");
  EXPECT_FALSE(identity->high_priority);
}

TEST(TokensTest, RefusesAMethodWithoutTheRight) {
  const auto refused = Table().Check("a-secret-of-reader", "GenerateImages").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReasonOf(refused), "PERMISSION_DENIED");
  EXPECT_EQ(MetadataOf(refused, "right"), "GenerateImages");
}

TEST(TokensTest, RefusesWhatItDoesNotKnow) {
  for (const std::string token : {"", "a-secret-of-studi", "a-secret-of-studio ", "x"}) {
    const auto refused = Table().Check(token, "GenerateImages").status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnauthenticated) << token;
    EXPECT_EQ(ReasonOf(refused), "UNAUTHENTICATED");
  }
}

TEST(TokensTest, ReportsEveryFaultButNoToken) {
  const std::string faults = Faults(R"(tokens:
  - {name: a, token: short-secret}
  - {name: a, token: another-long-enough, sha256: "00"}
  - {name: b, sha256: "zz"}
  - {name: c, token: another-long-enough, methods: [Generate]}
  - {name: d, token: another-long-enough, prio: true}
)");
  EXPECT_THAT(faults, HasSubstr("tokens.yaml:2: tokens[0].token: 16 to 512 characters"));
  EXPECT_THAT(faults, HasSubstr("tokens[1].name: a unique name"));
  EXPECT_THAT(faults, HasSubstr("tokens[1].token: either 'token' or 'sha256' is needed"));
  EXPECT_THAT(faults, HasSubstr("tokens[2].sha256: 64 hexadecimal digits"));
  EXPECT_THAT(faults, HasSubstr("tokens[3].methods: 'Generate' is none of"));
  EXPECT_THAT(faults, HasSubstr("tokens[4].prio: unknown key"));
  EXPECT_THAT(faults, Not(HasSubstr("short-secret")));
  EXPECT_THAT(Faults("tokens: []"), HasSubstr("at least one token"));
}

TEST(TokensTest, SaysWhichFileIsAbsent) {
  EXPECT_THAT(std::string(TokenTable::Load("/nowhere/tokens").status().message()),
              HasSubstr("/nowhere/tokens"));
}

class GuardTest : public ::testing::Test {
 protected:
  Guard guard_;
};

TEST_F(GuardTest, CountsAPeersConnectionsAsOneClient) {
  auto first = guard_.Check({"", "", "ipv4:10.0.0.7:1234"}, "GenerateImages");
  auto second = guard_.Check({"", "", "ipv4:10.0.0.7:9"}, "GenerateImages");
  auto other = guard_.Check({"", "", "ipv6:%5B::1%5D:9"}, "GenerateImages");
  ASSERT_TRUE(first.ok() && second.ok() && other.ok());
  EXPECT_EQ(first->client, second->client);
  EXPECT_NE(first->client, other->client);
  EXPECT_EQ(first->name, "") << "an address owns no request_ids";
}

TEST_F(GuardTest, NamesTheCallerByItsCertificate) {
  auto identity = guard_.Check({"", "studio.example", "ipv4:10.0.0.7:1234"}, "GenerateImages");
  ASSERT_TRUE(identity.ok());
  EXPECT_EQ(identity->name, "studio.example");
}

TEST_F(GuardTest, AsksForATokenOnceThereAreSome) {
  guard_.SetTokens(std::make_shared<const TokenTable>(Table()));
  EXPECT_TRUE(guard_.asks_tokens());
  for (const std::string header : {"", "Basic YTpi", "Bearer", "Bearer wrong", kSecret}) {
    const auto refused = guard_.Check({header, "studio", "ipv4:1.2.3.4:5"}, "ListModels").status();
    EXPECT_EQ(ReasonOf(refused), "UNAUTHENTICATED") << header;
  }
  EXPECT_TRUE(guard_.Check({std::string("Bearer ") + kSecret, "", ""}, "ListModels").ok());
  EXPECT_TRUE(guard_.Check({std::string("bearer ") + kSecret, "", ""}, "").ok());
}

}  // namespace
}  // namespace patchflow

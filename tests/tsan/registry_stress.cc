#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/registry.h"
#include "tests/server/generations.h"
#include "tests/tsan/together.h"

namespace patchflow {
namespace {

constexpr int kIds = 80;

std::string Id(int i) { return absl::StrCat("id-", i); }

TEST(RegistryStress, MakesEachOnceWhileOthersEndAndAskAndExpire) {
  Registry registry(1 << 20, absl::Seconds(300));
  std::atomic<int> fresh = 0;
  std::atomic<int> claiming = 3;
  const auto claim = [&] {
    for (int i = 0; i < kIds; ++i) {
      const auto claimed = registry.Claim({"", Id(i)}, "fingerprint", [&](std::optional<uint64_t>) {
        return MakeGeneration(TestSpec(Id(i)), [&](Generation& g) { registry.Ended(g); });
      });
      ASSERT_TRUE(claimed.ok()) << claimed.status();
      if (claimed->fresh) {
        fresh.fetch_add(1, std::memory_order_relaxed);
        claimed->generation->Start();
        AddImage(*claimed->generation, 0, 64);
      }
    }
    claiming.fetch_sub(1, std::memory_order_relaxed);
  };
  Together({claim, claim, claim,
            [&] {
              for (int i = 0; claiming.load(std::memory_order_relaxed) > 0; ++i) {
                (void)registry.FindOrCancelAhead({"another", Id(i % kIds)});
                registry.Poison(absl::StrCat("other fingerprint ", i % 8));
                registry.Expire();
                std::this_thread::yield();
              }
            },
            [&] {
              for (int i = 0; claiming.load(std::memory_order_relaxed) > 0; ++i) {
                const auto found = registry.Find({"", Id(i % kIds)});
                EXPECT_TRUE(found.ok() || absl::IsNotFound(found.status()));
                EXPECT_LE(registry.live(), static_cast<size_t>(kIds));
                EXPECT_LE(registry.Live().size(), static_cast<size_t>(kIds));
                EXPECT_LE(registry.kept(), static_cast<size_t>(kIds));
                registry.kept_bytes();
                std::this_thread::yield();
              }
            }});
  EXPECT_EQ(fresh, kIds);
  EXPECT_EQ(registry.live(), 0U);
  EXPECT_EQ(registry.kept(), static_cast<size_t>(kIds));
}

}  // namespace
}  // namespace patchflow

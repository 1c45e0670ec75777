// Methods combined in one mesh, where nothing is stale.
#include "parallel/methods.h"

#include <gmock/gmock.h>

#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

class Mixed : public testing::TestWithParam<MethodCase> {};

TEST_P(Mixed, EqualsSerial) { ExpectEqualsSerial(GetParam()); }

const ToyOptions kEightHeads{.num_heads = 8};

std::vector<MethodCase> Cases() {
  return ThatFit({
      {"ulysses=2,ring=2", kReordered, {.grid = {5, 7}}},
      {"ulysses=3,ring=2", kReordered, {.scheduler = "ddim"}},
      {"ulysses=2,ring=4", kReordered, {.grid = {5, 7}, .scheduler = "euler"}},
      {"ulysses=2,tensor=3", kReordered, {.images = 2}},
      {"ring=2,tensor=2", kReordered, {.grid = {5, 7}}, {.num_heads = 5}},
      {"ulysses=2,guidance=2", kSameOrder, {.grid = {5, 7}}},
      {"ulysses=2,ring=2,tensor=2", kReordered, {.grid = {5, 7}}, kEightHeads},
      {"ulysses=2,ring=2,guidance=2", kReordered, {.scheduler = "euler"}},
      {"ulysses=2,ring=2", kReordered, {.grid = {16, 16}, .steps = 3}, {}, true},
      {"tensor=2,ulysses=2,guidance=2",
       kReordered,
       {.grid = {9, 7}, .scheduler = "ddim", .steps = 3},
       {},
       true},
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, Mixed, testing::ValuesIn(Cases()), CaseName);

TEST(MethodsTest, RequestsLeaveNothingBehind) {
  for (const MethodCase& c : ThatFit({{"ulysses=2,ring=2"}})) {
    ExpectRequestsLeaveNothingBehind(c);
  }
}

TEST(MethodsTest, EveryLayoutHasOneMethod) {
  const auto method_of = [](std::string_view text) {
    const Layout layout = ParseLayout(text).value();
    std::vector<std::string_view> names;
    for (const Method& method : Methods()) {
      if (method.serves(layout)) {
        names.push_back(method.name);
      }
    }
    return names;
  };
  using testing::ElementsAre;
  EXPECT_THAT(method_of("serial"), ElementsAre("sequence"));
  EXPECT_THAT(method_of("tensor=2,guidance=2"), ElementsAre("sequence"));
  EXPECT_THAT(method_of("ulysses=2,ring=2"), ElementsAre("sequence"));
  EXPECT_THAT(method_of("distrifusion=2"), ElementsAre("distrifusion"));
  EXPECT_THAT(method_of("pipefusion=2,ulysses=2"), ElementsAre("pipefusion"));
  EXPECT_THAT(method_of("pipefusion=1,patches=3"), ElementsAre("pipefusion"));
}

}  // namespace
}  // namespace patchflow

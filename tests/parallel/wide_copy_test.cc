#include "parallel/wide_copy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace patchflow {
namespace {

Tensor Random(at::IntArrayRef sizes, at::ScalarType dtype) {
  at::manual_seed(3);
  return at::randn(sizes).to(dtype);
}

TEST(WideCopyTest, CopiesSlicesAndTurnedDims) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const Tensor product = Random({2, 5, 3, 4, 72}, dtype);
    const Tensor from = product.select(2, 1).permute({2, 0, 1, 3});
    const Tensor to = at::zeros({4, 2, 7, 72}, from.options()).narrow(2, 1, 5);
    CopyWide(to, from);
    EXPECT_TRUE(at::equal(to, from));
  }
}

// Head sizes that are no whole 16 bytes, rows that begin between, numbers apart, none at all.
TEST(WideCopyTest, CopiesWhatHasNoWholeSixteenBytes) {
  const auto copies = [](const Tensor& from) {
    const Tensor to = at::zeros(from.sizes(), from.options());
    CopyWide(to, from);
    return at::equal(to, from);
  };
  EXPECT_TRUE(copies(Random({3, 4, 6}, at::kBFloat16)));
  EXPECT_TRUE(copies(Random({3, 4, 24}, at::kBFloat16).narrow(2, 1, 8)));
  EXPECT_TRUE(copies(Random({3, 10}, at::kBFloat16).narrow(1, 0, 8)));
  EXPECT_TRUE(copies(Random({16, 3}, at::kFloat).t()));
  EXPECT_TRUE(copies(Random({0, 16}, at::kFloat)));
  EXPECT_TRUE(copies(Random({}, at::kFloat)));
}

TEST(WideCopyTest, KeepsEveryBit) {
  const Tensor bits = at::arange(-32768, 32768, at::kShort);
  const Tensor to = at::zeros({65536}, at::kBFloat16);
  CopyWide(to.view({2, -1}).t(), bits.view(at::kBFloat16).view({2, -1}).t());
  EXPECT_TRUE(at::equal(to.view(at::kShort), bits));
  CopyWide(to, at::zeros_like(to));
  CopyWide(to, bits.view(at::kBFloat16));
  EXPECT_TRUE(at::equal(to.view(at::kShort), bits));
}

TEST(WideCopyTest, RefusesAnotherDtype) {
  EXPECT_ANY_THROW(CopyWide(at::zeros({16}), at::zeros({16}, at::kBFloat16)));
}

}  // namespace
}  // namespace patchflow

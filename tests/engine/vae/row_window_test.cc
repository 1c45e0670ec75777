#include "engine/vae/row_window.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "engine/vae/convolution.h"

namespace patchflow {
namespace {

void Copy(const Tensor& from, const Tensor& to) { to.copy_(from); }

TEST(SlabsTest, CoverAllRowsEvenly) {
  for (int64_t h = 1; h <= 40; ++h) {
    for (int64_t most = 1; most <= h + 2; ++most) {
      int64_t next = 0;
      int64_t smallest = h;
      int64_t largest = 0;
      for (const RowRange slab : Slabs(h, most)) {
        EXPECT_EQ(slab.begin, next);
        next = slab.end;
        smallest = std::min(smallest, slab.size());
        largest = std::max(largest, slab.size());
      }
      EXPECT_EQ(next, h);
      EXPECT_LE(largest, most);
      EXPECT_LE(largest - smallest, 1);
      EXPECT_GE(smallest, 1);
    }
  }
}

TEST(RowWindowTest, GivesEverySlabItsNeighbours) {
  LocalRows neighbours;
  for (const int64_t h : {1, 2, 3, 5, 16}) {
    const Tensor x_hWC = at::randn({h, 3, 2});
    const Tensor padded = at::constant_pad_nd(x_hWC, {0, 0, 0, 0, 1, 1});
    for (int64_t most = 1; most <= h; ++most) {
      RowWindow window(x_hWC, Copy, neighbours, most);
      for (const RowRange slab : Slabs(h, most)) {
        const Tensor found = window.Next(slab).permute({0, 2, 3, 1}).squeeze(0);
        EXPECT_TRUE(at::equal(found, padded.narrow(0, slab.begin, slab.size() + 2)))
            << h << " rows by " << most << " at " << slab.begin;
      }
    }
  }
}

TEST(RowWindowTest, RowsMayBeOverwrittenOnceTheirSlabWasGiven) {
  LocalRows neighbours;
  for (int64_t most = 1; most <= 7; ++most) {
    const Tensor x_hWC = at::randn({7, 3, 2});
    const Tensor padded = at::constant_pad_nd(x_hWC, {0, 0, 0, 0, 1, 1}).clone();
    RowWindow window(x_hWC, Copy, neighbours, most);
    for (const RowRange slab : Slabs(7, most)) {
      const Tensor found = window.Next(slab).permute({0, 2, 3, 1}).squeeze(0);
      EXPECT_TRUE(at::equal(found, padded.narrow(0, slab.begin, slab.size() + 2))) << most;
      x_hWC.narrow(0, slab.begin, slab.size()).fill_(1000);
    }
  }
}

// Of rows 10 and 20 beyond the edges.
class Marked final : public NeighbourRows {
 public:
  Tensor WithHalo(const Tensor& x_BChw, int64_t rows) override {
    Tensor out = at::constant_pad_nd(x_BChw, {0, 0, rows, rows});
    out.narrow(2, 0, rows).fill_(10);
    out.narrow(2, rows + x_BChw.size(2), rows).fill_(20);
    return out;
  }
};

TEST(RowWindowTest, TakesRowsBeyondItsEdgesFromThePort) {
  Marked neighbours;
  RowWindow window(at::zeros({2, 3, 2}), Copy, neighbours, 1);
  const Tensor first = window.Next({0, 1}).clone();
  const Tensor second = window.Next({1, 2});
  EXPECT_TRUE(at::equal(first.select(2, 0), at::full({1, 2, 3}, 10.0F)));
  EXPECT_TRUE(at::equal(first.select(2, 2), at::zeros({1, 2, 3})));
  EXPECT_TRUE(at::equal(second.select(2, 2), at::full({1, 2, 3}, 20.0F)));
}

TEST(RowWindowTest, RefusesRowsOutOfOrder) {
  LocalRows neighbours;
  RowWindow window(at::zeros({4, 3, 2}), Copy, neighbours, 2);
  EXPECT_THROW(window.Next({1, 2}), c10::Error);
  EXPECT_THROW(window.Next({0, 3}), c10::Error);
  window.Next({0, 2});
  EXPECT_THROW(window.Next({0, 2}), c10::Error);
  EXPECT_THROW(window.Next({2, 5}), c10::Error);
}

}  // namespace
}  // namespace patchflow

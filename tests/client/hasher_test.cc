#include "client/hasher.h"

#include <gtest/gtest.h>

#include "absl/strings/escaping.h"

namespace patchflow {
namespace {

// Source: FIPS 180-2, appendix B.
TEST(HasherTest, HashesPiecesAsOne) {
  Hasher hasher;
  EXPECT_EQ(absl::BytesToHexString(hasher.Finish()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  hasher.Add("a");
  hasher.Add("");
  hasher.Add("bc");
  EXPECT_EQ(absl::BytesToHexString(hasher.Finish()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  hasher.Add("abc");
  EXPECT_EQ(absl::BytesToHexString(hasher.Finish()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace patchflow

#include "client/status_line.h"

#include <gtest/gtest.h>

#include <sstream>

namespace patchflow {
namespace {

TEST(StatusLineTest, IsWrittenOverOnATerminalAndCutToItsWidth) {
  std::ostringstream out;
  std::ostringstream err;
  Console console{out, err, /*err_is_terminal=*/true, /*columns=*/5};
  StatusLine line(console);
  line.Show("123456");
  line.Clear();
  line.Clear();
  line.Show("7");
  line.Keep();
  line.Keep();
  EXPECT_EQ(err.str(), "\r1234\x1B[K\r\x1B[K\r7\x1B[K\n");
  EXPECT_EQ(out.str(), "");
}

TEST(StatusLineTest, IsALineEachTimeElsewhere) {
  std::ostringstream out;
  std::ostringstream err;
  Console console{out, err};
  StatusLine line(console);
  line.Show("123456");
  line.Clear();
  line.Keep();
  EXPECT_EQ(err.str(), "123456\n");
}

}  // namespace
}  // namespace patchflow

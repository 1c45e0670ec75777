#include "engine/image/metadata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace patchflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetadataTest, TakesNamesAndUtf8) {
  EXPECT_TRUE(CheckMetadata({}).ok());
  EXPECT_TRUE(CheckMetadata({{"prompt", ""}, {"_a.b-c9", "line\nline\ttab \x01"}}).ok());
  EXPECT_TRUE(CheckMetadata({{std::string(79, 'k'),
                              "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x8C\xB7 \xF4\x8F\xBF\xBF"}})
                  .ok());
}

TEST(MetadataTest, RefusesKeysThatAreNotNames) {
  for (const std::string& key : {std::string(), std::string("9a"), std::string("a b"),
                                 std::string("a\n"), std::string("a:b"), std::string("\xC3\xA9"),
                                 std::string("-a"), std::string("a\0b", 3), std::string(80, 'k')}) {
    const absl::Status status = CheckMetadata({{"fine", "v"}, {key, "v"}});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_THAT(std::string(status.message()), HasSubstr("1 to 79 of [A-Za-z0-9_.-]"));
  }
}

TEST(MetadataTest, RefusesAKeyThatComesTwice) {
  const absl::Status status = CheckMetadata({{"seed", "1"}, {"seed", "2"}});
  EXPECT_EQ(status.message(), "metadata: key \"seed\" comes twice");
}

TEST(MetadataTest, RefusesInvalidUtf8AndNul) {
  for (const char* value :
       {"ab\x80", "ab\xC0\xAF", "ab\xC3", "ab\xC3(", "ab\xE0\x80\xAF", "ab\xED\xA0\x80",
        "ab\xF0\x80\x80\x80", "ab\xF4\x90\x80\x80", "ab\xF5\x80\x80\x80", "ab\xE2\x82", "ab\xFF"}) {
    const absl::Status status = CheckMetadata({{"prompt", value}});
    EXPECT_EQ(status.message(), "metadata: the value of \"prompt\" has invalid UTF-8 at byte 2")
        << value;
  }
  EXPECT_EQ(CheckMetadata({{"prompt", std::string("a\0b", 3)}}).message(),
            "metadata: the value of \"prompt\" has a NUL at byte 1");
}

TEST(MetadataTest, XmpEscapesWhatXmlReserves) {
  const std::string xmp = XmpPacket({{"prompt", "a < b && \"c\" > d\r\n"}, {"seed", "42"}});
  EXPECT_THAT(
      xmp,
      HasSubstr("<patchflow:prompt>a &lt; b &amp;&amp; \"c\" &gt; d&#13;\n</patchflow:prompt>"));
  EXPECT_THAT(xmp, HasSubstr("<patchflow:seed>42</patchflow:seed>"));
}

TEST(MetadataTest, XmpTellsTheSourceAsIptcDoes) {
  const std::string xmp =
      XmpPacket({{std::string(kDigitalSourceType), "http://a/b"}, {"seed", "1"}});
  EXPECT_THAT(xmp, HasSubstr("<Iptc4xmpExt:DigitalSourceType>http://a/b"
                             "</Iptc4xmpExt:DigitalSourceType>\n<patchflow:seed>1<"));
  EXPECT_THAT(xmp, HasSubstr("xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\""));
}

TEST(MetadataTest, XmpReplacesWhatXmlCantHold) {
  const std::string xmp = XmpPacket({{"p",
                                      "a\x01"
                                      "b\x1F\xEF\xBF\xBE"
                                      "c\xEF\xBF\xBF"
                                      "d\t\xEF\xBF\xBD"}});
  EXPECT_THAT(xmp, HasSubstr(">a\xEF\xBF\xBD"
                             "b\xEF\xBF\xBD\xEF\xBF\xBD"
                             "c\xEF\xBF\xBD"
                             "d\t\xEF\xBF\xBD<"));
  EXPECT_THAT(xmp, Not(HasSubstr("\x01")));
}

}  // namespace
}  // namespace patchflow

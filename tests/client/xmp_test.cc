#include "client/xmp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "engine/image/metadata.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

std::string PacketOf(const std::string& content) {
  return "<x:xmpmeta><rdf:RDF><rdf:Description rdf:about=\"\" xmlns:patchflow=\"urn:patchflow#\">" +
         content + "</rdf:Description></rdf:RDF></x:xmpmeta>";
}

TEST(XmpTest, TextsAreThoseThatWereWritten) {
  const std::string packet = XmpPacket({{"prompt", "a <red> \"r\u00e9d\" & b\r\n\tstar \U0001F600"},
                                        {"empty", ""},
                                        {"DigitalSourceType", "http://a/b?c&d"}});
  EXPECT_THAT(XmpTexts(packet),
              ElementsAre(Pair("DigitalSourceType", "http://a/b?c&d"), Pair("empty", ""),
                          Pair("prompt", "a <red> \"r\u00e9d\" & b\r\n\tstar \U0001F600")));
}

TEST(XmpTest, ReferencesBecomeTheirCharacters) {
  EXPECT_THAT(
      XmpTexts(PacketOf("<patchflow:a>&quot;&apos;&#65;&#xe9;&#x20AC;&#x1F600;</patchflow:a>")),
      ElementsAre(Pair("a", "\"'A\u00e9\u20ac\U0001F600")));
}

TEST(XmpTest, OtherPropertiesAndThoseThatAreNoPlainTextArePassedOver) {
  EXPECT_THAT(XmpTexts(PacketOf("<dc:title>x</dc:title><patchflow:a><b>1</b></patchflow:a>"
                                "<patchflow:c>&nbsp;</patchflow:c><patchflow:d/>"
                                "<patchflow:e>5</patchflow:e>")),
              ElementsAre(Pair("e", "5")));
}

TEST(XmpTest, PropertiesWithinOthersArePassedOver) {
  EXPECT_THAT(
      XmpTexts(PacketOf("<dc:title x=\"1\"><patchflow:a>1</patchflow:a></dc:title><!-- b -->"
                        "<patchflow:c><patchflow:d>2</patchflow:d></patchflow:c></patchflow:c>"
                        "<patchflow:e>3</patchflow:f></patchflow:f>"
                        "<patchflow:g>4</patchflow:g>")),
      ElementsAre(Pair("g", "4")));
}

TEST(XmpTest, TakesNoLongerThanItsLengthAsksFor) {
  std::string content;
  for (int i = 0; i < (1 << 18); ++i) content += "<a>";
  for (int i = 0; i < (1 << 16); ++i) content += "<patchflow:b>&amp;";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(XmpTexts(PacketOf(content)), IsEmpty());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST(XmpTest, WhatIsNoPacketHasNoTexts) {
  for (const std::string packet :
       {"", "<", "<rdf:Description", "<rdf:Description/>", "<rdf:Description>",
        "<rdf:Description><patchflow:a>1</patchflow:a>",
        "<rdf:Description><patchflow:a>1</rdf:Description>",
        "<rdf:Description><patchflow:a>&#0;&#x110000;&#;&;</patchflow:a></rdf:Description>"}) {
    EXPECT_THAT(XmpTexts(packet), IsEmpty()) << packet;
  }
}

}  // namespace
}  // namespace patchflow

#include "client/generation_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/client/fake_service.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Recorder : public GenerationEvents {
 public:
  void OnAccepted(const std::string& request_id, const v1::Accepted&) override {
    Add("accepted " + request_id);
  }
  void OnProgress(const v1::Progress& progress) override {
    Add(absl::StrCat("step ", progress.step()));
  }
  void OnPreview(const v1::Preview& preview) override {
    Add(absl::StrCat("preview ", preview.step()));
  }
  void OnCompleted(const v1::Completed&) override { Add("completed"); }
  absl::Status OnImage(const v1::ImageHeader& header, std::string bytes) override {
    Add(absl::StrCat("image ", header.image_index()));
    images.push_back(std::move(bytes));
    return image_status;
  }

  std::vector<std::string> events;
  std::vector<std::string> images;
  absl::Status image_status;

 private:
  void Add(std::string event) { events.push_back(std::move(event)); }
};

absl::Status Follow(std::vector<v1::GenerateImagesResponse> messages, Recorder& recorder,
                    const std::string& request_id = "r",
                    StreamContent content = StreamContent::kImages) {
  GenerationStream stream(request_id, content, recorder);
  for (auto& message : messages) {
    if (absl::Status status = stream.Take(message); !status.ok()) return status;
  }
  return stream.Finish();
}

Script TwoImages() {
  Script script("r");
  script.Accepted(2, 5);
  script.Progress(1, 2);
  script.Image(0, 5, ImageBytes(5), 1000);
  script.Progress(1, 2);
  script.Image(1, 6, ImageBytes(6), 5000);
  script.Completed();
  return script;
}

// Index of the first message of a kind.
size_t Find(const Script& script, v1::GenerateImagesResponse::EventCase event, size_t from = 0) {
  while (script.messages.at(from).event_case() != event) ++from;
  return from;
}
constexpr auto kHeader = v1::GenerateImagesResponse::kImageHeader;
constexpr auto kChunk = v1::GenerateImagesResponse::kImageChunk;

void ExpectBroken(const Script& script, const std::string& how) {
  Recorder recorder;
  const absl::Status status = Follow(script.messages, recorder);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_EQ(std::string(status.message()), "the server's stream is broken: " + how);
}

void Renumber(Script& script) {
  for (size_t i = 0; i < script.messages.size(); ++i) script.messages[i].set_sequence(i + 1);
}

void Erase(Script& script, size_t index) {
  script.messages.erase(script.messages.begin() + static_cast<std::ptrdiff_t>(index));
}

TEST(GenerationStreamTest, BringsEverythingInOrder) {
  Recorder recorder;
  ASSERT_TRUE(Follow(TwoImages().messages, recorder).ok());
  EXPECT_THAT(recorder.events,
              ElementsAre("accepted r", "step 1", "image 0", "step 1", "image 1", "completed"));
  EXPECT_THAT(recorder.images, ElementsAre(ImageBytes(5), ImageBytes(6)));
}

TEST(GenerationStreamTest, TakesTheServersIdIfItHasNone) {
  Recorder recorder;
  EXPECT_TRUE(Follow(TwoImages().messages, recorder, "").ok());
}

TEST(GenerationStreamTest, TakesGapsInTheSequence) {
  Script script = TwoImages();
  for (auto& message : script.messages) message.set_sequence(3 * message.sequence() + 100);
  Recorder recorder;
  EXPECT_TRUE(Follow(script.messages, recorder).ok());
}

TEST(GenerationStreamTest, TakesProgressWithinAnImage) {
  Script script = TwoImages();
  Script other("r");
  other.Progress(2, 2);
  script.messages.insert(
      script.messages.begin() + static_cast<std::ptrdiff_t>(Find(script, kChunk) + 1),
      other.messages[0]);
  Renumber(script);
  Recorder recorder;
  EXPECT_TRUE(Follow(script.messages, recorder).ok());
}

TEST(GenerationStreamTest, PassesOverEventsThatItDoesNotKnow) {
  Script script = TwoImages();
  script.messages[1].clear_event();
  Recorder recorder;
  EXPECT_TRUE(Follow(script.messages, recorder).ok());
}

TEST(GenerationStreamTest, ExpectsNoImagesOfAValidation) {
  Script script("r");
  script.Accepted(2, 5);
  script.Completed();
  Recorder recorder;
  EXPECT_TRUE(Follow(script.messages, recorder, "r", StreamContent::kNothing).ok());
  ExpectBroken(script, "Completed after 0 of 2 images");
}

TEST(GenerationStreamTest, RefusesAFirstMessageThatIsNotAccepted) {
  Script script = TwoImages();
  Erase(script, 0);
  ExpectBroken(script, "the first message is not Accepted");
}

TEST(GenerationStreamTest, RefusesASecondAccepted) {
  Script script = TwoImages();
  *script.messages[1].mutable_accepted() = script.messages[0].accepted();
  ExpectBroken(script, "Accepted comes twice");
}

TEST(GenerationStreamTest, RefusesASequenceThatDoesNotRise) {
  Script script = TwoImages();
  script.messages[2].set_sequence(2);
  ExpectBroken(script, "sequence 2 after 2");
}

TEST(GenerationStreamTest, RefusesAnotherRequestsMessages) {
  Script script = TwoImages();
  script.messages[3].set_request_id("other");
  ExpectBroken(script, "a message of request \"other\" instead of \"r\"");
}

TEST(GenerationStreamTest, RefusesIdsThatAreNone) {
  for (const std::string& id :
       {std::string(), std::string("../etc"), std::string("a b"), std::string(65, 'a')}) {
    Script script = TwoImages();
    script.messages[0].set_request_id(id);
    Recorder recorder;
    EXPECT_THAT(std::string(Follow(script.messages, recorder, "").message()),
                HasSubstr("is not 1 to 64 of"));
  }
}

TEST(GenerationStreamTest, RefusesMessagesAfterCompleted) {
  Script script = TwoImages();
  script.Progress(1, 2);
  ExpectBroken(script, "a message after Completed");
}

TEST(GenerationStreamTest, RefusesAnEndWithoutCompleted) {
  Script script = TwoImages();
  script.messages.pop_back();
  ExpectBroken(script, "it ended without Completed");
}

TEST(GenerationStreamTest, RefusesCompletedTooEarly) {
  Script script("r");
  script.Accepted(2, 5);
  script.Image(0, 5, ImageBytes(5), 5000);
  script.Completed();
  ExpectBroken(script, "Completed after 1 of 2 images");
  Erase(script, Find(script, kChunk));
  ExpectBroken(script, "Completed within image 0");
}

TEST(GenerationStreamTest, RefusesImagesOutOfOrder) {
  Script script = TwoImages();
  script.messages[Find(script, kHeader)].mutable_image_header()->set_image_index(1);
  ExpectBroken(script, "image 1 begins, image 0 of 2 is next");
}

TEST(GenerationStreamTest, RefusesMoreImagesThanAccepted) {
  Script script("r");
  script.Accepted(1, 5);
  script.Image(0, 5, ImageBytes(5), 5000);
  script.Image(1, 6, ImageBytes(6), 5000);
  ExpectBroken(script, "image 1 begins, image 1 of 1 is next");
}

TEST(GenerationStreamTest, RefusesAnImageWithinAnother) {
  Script script("r");
  script.Accepted(2, 5);
  script.Image(0, 5, ImageBytes(5), 2500);
  script.messages.pop_back();
  script.Image(1, 6, ImageBytes(6), 5000);
  ExpectBroken(script, "image 1 begins after 2500 of 5000 bytes of image 0");
}

TEST(GenerationStreamTest, RefusesChunksWithoutHeader) {
  Script script = TwoImages();
  Erase(script, Find(script, kHeader));
  ExpectBroken(script, "a chunk of image 0 without its header");
}

TEST(GenerationStreamTest, RefusesChunksOfAnotherImage) {
  Script script = TwoImages();
  script.messages[Find(script, kChunk)].mutable_image_chunk()->set_image_index(1);
  ExpectBroken(script, "a chunk of image 1 within image 0");
}

TEST(GenerationStreamTest, RefusesChunksOutOfOrder) {
  Script script = TwoImages();
  const size_t chunk = Find(script, kChunk);
  std::swap(script.messages[chunk], script.messages[chunk + 1]);
  Renumber(script);
  ExpectBroken(script, "image 0: a chunk at offset 1000 after 0 bytes");
}

TEST(GenerationStreamTest, RefusesALostChunk) {
  Script script = TwoImages();
  Erase(script, Find(script, kChunk) + 1);
  ExpectBroken(script, "image 0: a chunk at offset 2000 after 1000 bytes");
}

TEST(GenerationStreamTest, RefusesMoreBytesThanTheHeaderSays) {
  Script script = TwoImages();
  script.messages[Find(script, kHeader)].mutable_image_header()->set_total_bytes(1500);
  ExpectBroken(script, "image 0: more than its 1500 bytes");
}

TEST(GenerationStreamTest, RefusesAnImageOfNoBytes) {
  Script script = TwoImages();
  script.messages[Find(script, kHeader)].mutable_image_header()->set_total_bytes(0);
  ExpectBroken(script, "image 0 has no bytes");
}

TEST(GenerationStreamTest, RefusesBytesWithAnotherHash) {
  Script script = TwoImages();
  (*script.messages[Find(script, kChunk) + 2].mutable_image_chunk()->mutable_data())[17] ^= 1;
  Recorder recorder;
  EXPECT_EQ(Follow(script.messages, recorder).message(),
            "the server's stream is broken: image 0: the SHA-256 of its bytes is not the header's");
  EXPECT_TRUE(recorder.images.empty());
}

TEST(GenerationStreamTest, ChecksTheHashOfEveryImage) {
  Script script = TwoImages();
  const size_t second = Find(script, kHeader, Find(script, kHeader) + 1);
  script.messages[second].mutable_image_header()->set_sha256(HashOf(ImageBytes(5)));
  ExpectBroken(script, "image 1: the SHA-256 of its bytes is not the header's");
}

TEST(GenerationStreamTest, EndsWithWhatTheReceiverSays) {
  Recorder recorder;
  recorder.image_status = absl::ResourceExhaustedError("disk full");
  EXPECT_EQ(Follow(TwoImages().messages, recorder), recorder.image_status);
  EXPECT_EQ(recorder.images.size(), 1U);
}

}  // namespace
}  // namespace patchflow

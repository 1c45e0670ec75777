#include "server/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/generations.h"

namespace patchflow {
namespace {

using Event = v1::GenerateImagesResponse;
using ::testing::ElementsAre;

std::vector<Event> Drain(Outbox& outbox) {
  std::vector<Event> messages;
  while (auto message = outbox.Next()) {
    messages.push_back(*std::move(message));
  }
  return messages;
}

std::vector<Event::EventCase> Kinds(const std::vector<Event>& messages) {
  std::vector<Event::EventCase> kinds;
  for (const Event& message : messages) {
    kinds.push_back(message.event_case());
  }
  return kinds;
}

TEST(OutboxTest, SendsAcceptedFirstAndOnce) {
  auto generation = MakeGeneration(TestSpec("id-1"));
  Outbox outbox(generation, {});
  const auto messages = Drain(outbox);
  EXPECT_THAT(Kinds(messages), ElementsAre(Event::kAccepted, Event::kProgress));
  EXPECT_EQ(messages[0].request_id(), "id-1");
  EXPECT_EQ(messages[1].progress().state(), v1::STATE_QUEUED);
  EXPECT_TRUE(Drain(outbox).empty());
  EXPECT_FALSE(outbox.end().has_value());
}

TEST(OutboxTest, ReplacesProgressThatWasNotSent) {
  auto generation = MakeGeneration(TestSpec("a", 1, 20));
  Outbox outbox(generation, {});
  generation->Start();
  auto messages = Drain(outbox);
  const uint64_t before = messages.back().sequence();
  for (int step = 1; step <= 9; ++step) {
    generation->SetStep(0, step);
  }
  messages = Drain(outbox);
  ASSERT_THAT(Kinds(messages), ElementsAre(Event::kProgress));
  EXPECT_EQ(messages[0].progress().step(), 9);
  EXPECT_EQ(messages[0].sequence(), before + 9) << "a gap is what was conflated";
}

TEST(OutboxTest, SendsProgressAsSeldomAsAsked) {
  auto generation = MakeGeneration(TestSpec("a", 1, 20));
  v1::StreamOptions options;
  options.set_progress_every_steps(5);
  Outbox outbox(generation, options);
  generation->Start();
  uint64_t sequence = Drain(outbox).back().sequence();
  std::vector<int> steps;
  for (int step = 1; step <= 20; ++step) {
    generation->SetStep(0, step);
    for (const Event& message : Drain(outbox)) {
      steps.push_back(message.progress().step());
      EXPECT_EQ(message.sequence(), ++sequence) << "nothing was conflated";
    }
  }
  EXPECT_THAT(steps, ElementsAre(5, 10, 15, 20));
}

TEST(OutboxTest, SendsImagesInOrderInChunksThatAddUp) {
  auto generation = MakeGeneration(TestSpec("a", 2));
  v1::StreamOptions options;
  options.set_max_chunk_bytes(1024);
  Outbox outbox(generation, options);
  generation->Start();
  AddImage(*generation, 1, 100);
  AddImage(*generation, 0, 2500);
  std::vector<std::string> images;
  std::vector<Event::EventCase> kinds;
  uint64_t sequence = 0;
  for (const Event& message : Drain(outbox)) {
    EXPECT_GT(message.sequence(), sequence);
    sequence = message.sequence();
    kinds.push_back(message.event_case());
    if (message.has_image_header()) {
      EXPECT_EQ(message.image_header().image_index(), static_cast<int>(images.size()));
      images.emplace_back();
    } else if (message.has_image_chunk()) {
      EXPECT_EQ(message.image_chunk().image_index() + 1, static_cast<int>(images.size()));
      EXPECT_EQ(message.image_chunk().offset(), images.back().size());
      EXPECT_LE(message.image_chunk().data().size(), 1024U);
      images.back() += message.image_chunk().data();
    }
  }
  EXPECT_EQ(kinds.back(), Event::kCompleted);
  EXPECT_THAT(images, ElementsAre(std::string(2500, 'a'), std::string(100, 'b')));
  EXPECT_TRUE(outbox.end()->ok());
}

TEST(OutboxTest, SaysWhenAnotherMessageIsDueForCertain) {
  auto generation = MakeGeneration(TestSpec("a", 2));
  v1::StreamOptions options;
  options.set_max_chunk_bytes(1024);
  Outbox outbox(generation, options);
  generation->Start();
  AddImage(*generation, 0, 1500);
  std::vector<bool> more;
  for (const Event::EventCase kind : {Event::kAccepted, Event::kProgress, Event::kImageHeader,
                                      Event::kImageChunk, Event::kImageChunk}) {
    const auto message = outbox.Next();
    ASSERT_TRUE(message.has_value());
    EXPECT_EQ(message->event_case(), kind);
    more.push_back(outbox.more());
  }
  EXPECT_THAT(more, ElementsAre(false, false, true, true, false));
  EXPECT_FALSE(outbox.Next().has_value()) << "or the last one would wait for it";
  AddImage(*generation, 1, 10);
  more.clear();
  for (const Event::EventCase kind : {Event::kImageHeader, Event::kImageChunk, Event::kCompleted}) {
    EXPECT_FALSE(outbox.end().has_value());
    const auto message = outbox.Next();
    ASSERT_TRUE(message.has_value());
    EXPECT_EQ(message->event_case(), kind);
    more.push_back(outbox.more());
  }
  EXPECT_THAT(more, ElementsAre(true, true, false)) << "Completed comes for certain";
  EXPECT_TRUE(outbox.end()->ok()) << "known with the last message, which may end the call";
}

TEST(OutboxTest, LetsProgressThroughBetweenChunks) {
  auto generation = MakeGeneration(TestSpec("a", 2));
  v1::StreamOptions options;
  options.set_max_chunk_bytes(1024);
  Outbox outbox(generation, options);
  generation->Start();
  Drain(outbox);
  AddImage(*generation, 0, 4096);
  int chunks = 0;
  int progress = 0;
  for (int i = 0; i < 20; ++i) {
    generation->SetStep(1, i);
    auto message = outbox.Next();
    chunks += message.has_value() && message->has_image_chunk() ? 1 : 0;
    progress += message.has_value() && message->has_progress() ? 1 : 0;
  }
  EXPECT_EQ(chunks, 4);
  EXPECT_GT(progress, 4);
}

TEST(OutboxTest, EndsWithTheErrorAndWithoutCompleted) {
  auto generation = MakeGeneration(TestSpec("a", 2));
  Outbox outbox(generation, {});
  generation->Start();
  Drain(outbox);
  generation->End(TestError(absl::StatusCode::kInternal, reason::kNonFiniteOutput));
  EXPECT_TRUE(Drain(outbox).empty());
  EXPECT_EQ(ReasonOf(*outbox.end()), "NON_FINITE_OUTPUT");
}

TEST(OutboxTest, SendsPreviewsOnlyToWhoAsked) {
  auto generation = MakeGeneration(TestSpec("a"));
  v1::StreamOptions options;
  options.set_preview_every_steps(1);
  Outbox with(generation, options);
  Outbox without(generation, {});
  generation->Start();
  Drain(with);
  Drain(without);
  for (int step = 1; step <= 3; ++step) {
    auto preview = std::make_shared<v1::Preview>();
    preview->set_step(step);
    generation->SetPreview(preview);
  }
  const auto messages = Drain(with);
  ASSERT_THAT(Kinds(messages), ElementsAre(Event::kPreview));
  EXPECT_EQ(messages[0].preview().step(), 3);
  EXPECT_TRUE(Drain(without).empty());
}

TEST(OutboxTest, ReplaysAFinishedGeneration) {
  auto generation = MakeGeneration(TestSpec("a"));
  generation->Start();
  AddImage(*generation, 0);
  Outbox outbox(generation, {});
  EXPECT_THAT(Kinds(Drain(outbox)), ElementsAre(Event::kAccepted, Event::kImageHeader,
                                                Event::kImageChunk, Event::kCompleted));
  EXPECT_TRUE(outbox.end()->ok());
}

TEST(OutboxTest, NeverSaysSucceededInProgress) {
  auto generation = MakeGeneration(TestSpec("a"));
  Outbox outbox(generation, {});
  std::thread worker([&] {
    generation->Start();
    for (int step = 0; step <= 200; ++step) {
      generation->SetStep(0, step);
    }
    AddImage(*generation, 0);
  });
  while (!outbox.end().has_value()) {
    if (auto message = outbox.Next(); message.has_value() && message->has_progress()) {
      EXPECT_LT(message->progress().state(), v1::STATE_SUCCEEDED);
    }
  }
  worker.join();
}

}  // namespace
}  // namespace patchflow

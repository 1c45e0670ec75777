#include <gtest/gtest.h>

#include "server/outbox.h"
#include "tests/server/generations.h"
#include "tests/tsan/together.h"

namespace patchflow {
namespace {

constexpr int kImages = 3;
constexpr int kSteps = 40;
constexpr size_t kBytes = 5000;
constexpr int kRounds = 40;  // So that a missing lock is seen on busy cores, too.

void MakeImages(Generation& generation) {
  generation.Start();
  for (int image = 0; image < kImages; ++image) {
    for (int step = 1; step <= kSteps; ++step) {
      generation.SetStep(image, step);
      auto preview = std::make_shared<v1::Preview>();
      preview->set_step(step);
      generation.SetPreview(std::move(preview));
    }
    AddImage(generation, image, kBytes);
  }
}

void ReadAll(const std::shared_ptr<Generation>& generation, const v1::StreamOptions& options) {
  Outbox outbox(generation, options);
  std::vector<size_t> bytes(kImages);
  uint64_t sequence = 0;
  while (!outbox.end().has_value()) {
    const auto message = outbox.Next();
    if (!message.has_value()) {
      std::this_thread::yield();
      continue;
    }
    EXPECT_GT(message->sequence(), sequence);
    sequence = message->sequence();
    if (message->has_image_chunk()) {
      bytes[message->image_chunk().image_index()] += message->image_chunk().data().size();
    }
  }
  EXPECT_TRUE(outbox.end()->ok());
  EXPECT_EQ(bytes, std::vector<size_t>(kImages, kBytes));
}

TEST(OutboxStress, EveryReaderGetsAllImagesWhileTheyAreMade) {
  for (int round = 0; round < kRounds; ++round) {
    const auto generation = MakeGeneration(TestSpec("a", kImages, kSteps));
    v1::StreamOptions previews;
    previews.set_preview_every_steps(1);
    previews.set_max_chunk_bytes(1024);
    const auto subscriber = std::make_shared<CountingSubscriber>();
    Together({[&] { MakeImages(*generation); }, [&] { ReadAll(generation, {}); },
              [&] { ReadAll(generation, previews); },
              [&] {
                EXPECT_TRUE(generation->Subscribe(subscriber));
                while (!generation->ended()) {
                  generation->SetQueuePosition(1);
                  generation->completed();
                  generation->run_time();
                  std::this_thread::yield();
                }
                generation->Unsubscribe(subscriber.get(), absl::CancelledError());
              }});
    EXPECT_EQ(generation->standing().state, v1::STATE_SUCCEEDED);
  }
}

TEST(OutboxStress, OneOfManyEndsCounts) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> ends = 0;
    const auto generation = MakeGeneration(TestSpec("a"), [&](Generation&) { ++ends; });
    Together({[&] { generation->End(absl::CancelledError("by one")); },
              [&] { generation->End(absl::CancelledError("by another")); },
              [&] {
                Outbox outbox(generation, {});
                while (!outbox.end().has_value()) {
                  outbox.Next();
                }
                EXPECT_TRUE(absl::IsCancelled(*outbox.end()));
              }});
    EXPECT_EQ(ends, 1);
  }
}

}  // namespace
}  // namespace patchflow

// Where a rank stands, written to the black box while it works.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "engine/engine.h"
#include "parallel/world.h"
#include "worker/black_box.h"

namespace patchflow {

// Keeps one line of the box, 0.3 us a change:
//   rank=1 phase=denoise step=3/20 collectives=41 in=all_gather image=2
// `collectives` counts the operations of communicators that the rank has begun since the start,
// `in` is the one that it waits for ("-": none; several of them at once count as the last one).
// `image` counts images; all of the warm-up are 1. Operations that a CUDA graph replays are not
// seen. Used by the rank's thread; the box must outlive it.
class RankRecord {
 public:
  // The first `warm_up_images` are the warm-up.
  RankRecord(BlackBox& box, int rank, int warm_up_images = 1);

  // "load", "idle", "ended" besides the phases of an image.
  void Enter(const char* phase);
  void BeginImage(const ImageRequest& request);
  void StepsDone(int steps);
  void Issue(const char* operation);
  void BeginWait(const char* operation);
  void EndWait();
  // Notes what it came to.
  void End(const absl::Status& status);

 private:
  void Write();

  BlackBox& box_;
  const int rank_;
  int warm_up_images_;  // That have not begun.
  const char* phase_ = "start";
  const char* in_ = "-";
  int steps_done_ = 0;
  int steps_ = 0;
  int images_ = 0;
  int64_t collectives_ = 0;
};

// Splits communicators whose operations are recorded. Both must outlive it and its communicators.
class RecordingWorld final : public World {
 public:
  RecordingWorld(World& inner, RankRecord& record) : inner_(inner), record_(record) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::unique_ptr<Communicator> Split(int color, std::string_view name) override;
  void Abort(const std::string& reason) override { inner_.Abort(reason); }

 private:
  World& inner_;
  RankRecord& record_;
};

// An engine whose phases, steps and results are recorded. Owns `record`, which its communicators
// may use until it is destroyed.
std::unique_ptr<Engine> RecordEngine(std::unique_ptr<Engine> engine,
                                     std::shared_ptr<RankRecord> record);

}  // namespace patchflow

// The work of what waits, where images of one shape share passes.
#pragma once

#include <map>
#include <string>
#include <tuple>

#include "absl/time/time.h"
#include "server/generation.h"

namespace patchflow {

// Sum of the estimated runs; what is unknown counts nothing. A generation of one image finds room
// in every pass of its shape (plan and PassShape), so those of a shape count the passes that they
// fill together, each as long as theirs are on average. Generations of several images count as if
// each ran alone, which suspects do: so the sum is what the passes take at most, in whatever order
// they run. Where a pass has one image, it is the plain sum. Not thread-safe.
class QueuedWork {
 public:
  void Add(const Generation& generation);
  // One that was added, and that has not become a suspect since.
  void Remove(const Generation& generation);
  absl::Duration total() const { return total_; }
  // total() as it would be with `generation`, which was not added.
  absl::Duration With(const Generation& generation) const;

 private:
  // Of single images.
  struct Shared {
    int images = 0;
    absl::Duration passes;  // Of each as if it ran alone.

    absl::Duration Work(int rows) const;
  };
  // Plan, width, height, steps, guidance scale, scheduler and images of a pass.
  using Shape = std::tuple<std::string, int, int, int, float, std::string, int>;

  static Shape ShapeOf(const Generation& generation);
  void Change(const Generation& generation, int by);

  std::map<Shape, Shared> shared_;
  absl::Duration total_;
};

}  // namespace patchflow

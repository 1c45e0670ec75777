// Where a rank stands, and whom it talks to along each axis.
#pragma once

#include <memory>

#include "parallel/layout.h"
#include "parallel/world.h"

namespace patchflow {

struct Degrees {
  int tensor = 1;
  int ulysses = 1;
  int sequence = 1;  // Ranks that share the tokens: ulysses x ring, or DistriFusion's.
  int stages = 1;
  int branches = 1;
  int ranks() const { return tensor * sequence * stages * branches; }
};
Degrees DegreesOf(const Layout& layout);

struct Coordinates {
  int tensor = 0;
  int sequence = 0;  // ring coordinate x ulysses + ulysses coordinate.
  int stage = 0;
  int branch = 0;
  bool operator==(const Coordinates&) const = default;
};
// The one formula: tensor + TENSOR (sequence + SEQUENCE (stage + STAGES branch)).
int RankOf(const Degrees& degrees, const Coordinates& at);
Coordinates CoordinatesOf(const Degrees& degrees, int rank);

// What the communicators between stages are called.
inline constexpr char kForwardHop[] = "forward";
inline constexpr char kReturnHop[] = "return";

// One rank's communicators, each ordered by the coordinate of its axis; nullptr where the axis has
// one rank. Borrows the world.
struct Mesh {
  Degrees degrees;
  Coordinates here;
  std::unique_ptr<Communicator> world;  // All ranks of the group.
  std::unique_ptr<Communicator> tensor;
  std::unique_ptr<Communicator> ulysses;
  std::unique_ptr<Communicator> ring;
  std::unique_ptr<Communicator> sequence;
  std::unique_ptr<Communicator> guidance;
  std::unique_ptr<Communicator> stages;
  // Of two ranks each and one direction, since transfers both ways in one communicator serialise:
  // from the previous stage and to the next one, the last stage's next being the first.
  std::unique_ptr<Communicator> from_previous;
  std::unique_ptr<Communicator> to_next;

  bool first_stage() const { return here.stage == 0; }
  bool last_stage() const { return here.stage == degrees.stages - 1; }
};

// Collective of the world. Throws CommunicatorError.
Mesh MakeMesh(const Layout& layout, World& world);

}  // namespace patchflow

#include "parallel/mesh.h"

#include <c10/util/Exception.h>

namespace patchflow {
namespace {

// Edges that no stage has two of can be split off at once: those from even stages, those from odd
// ones, and the one from the last stage to the first.
enum class Edges { kFromEven, kFromOdd, kReturn };

// The stage from which the edge of this kind leaves that `stage` is an end of; -1 if none.
int SourceOf(Edges edges, int stage, int stages) {
  if (edges == Edges::kReturn) {
    return stage == 0 || stage == stages - 1 ? stages - 1 : -1;
  }
  const int parity = edges == Edges::kFromEven ? 0 : 1;
  const int source = stage % 2 == parity ? stage : stage - 1;
  return source >= 0 && source + 1 < stages ? source : -1;
}

void SplitEdges(World& world, Mesh& mesh) {
  const int stages = mesh.degrees.stages;
  for (const Edges edges : {Edges::kFromEven, Edges::kFromOdd, Edges::kReturn}) {
    const int source = SourceOf(edges, mesh.here.stage, stages);
    Coordinates end = mesh.here;
    end.stage = source;
    const int color = source < 0 ? -1 : RankOf(mesh.degrees, end);
    auto edge = world.Split(color, edges == Edges::kReturn ? kReturnHop : kForwardHop);
    if (edge != nullptr) {
      (source == mesh.here.stage ? mesh.to_next : mesh.from_previous) = std::move(edge);
    }
  }
}

}  // namespace

Degrees DegreesOf(const Layout& layout) {
  return {layout.tensor, layout.ulysses, layout.sequence(), layout.pipefusion, layout.guidance};
}

int RankOf(const Degrees& degrees, const Coordinates& at) {
  return at.tensor + degrees.tensor *
                         (at.sequence + degrees.sequence * (at.stage + degrees.stages * at.branch));
}

Coordinates CoordinatesOf(const Degrees& degrees, int rank) {
  Coordinates at;
  at.tensor = rank % degrees.tensor;
  rank /= degrees.tensor;
  at.sequence = rank % degrees.sequence;
  rank /= degrees.sequence;
  at.stage = rank % degrees.stages;
  at.branch = rank / degrees.stages;
  return at;
}

Mesh MakeMesh(const Layout& layout, World& world) {
  TORCH_CHECK(layout.ranks() == world.size(), "layout ", ToString(layout), " on ", world.size(),
              " ranks");
  Mesh mesh;
  mesh.degrees = DegreesOf(layout);
  mesh.here = CoordinatesOf(mesh.degrees, world.rank());
  const auto split = [&](int degree, Coordinates first, const char* name) {
    return degree > 1 ? world.Split(RankOf(mesh.degrees, first), name) : nullptr;
  };
  const Coordinates here = mesh.here;
  const int ulysses = here.sequence % mesh.degrees.ulysses;
  const auto at_sequence = [&here](int sequence) {
    return Coordinates{here.tensor, sequence, here.stage, here.branch};
  };
  mesh.world = split(mesh.degrees.ranks(), {}, "world");
  mesh.tensor = split(mesh.degrees.tensor, {0, here.sequence, here.stage, here.branch}, "tensor");
  mesh.ulysses = split(layout.ulysses, at_sequence(here.sequence - ulysses), "ulysses");
  mesh.ring = split(layout.ring, at_sequence(ulysses), "ring");
  mesh.sequence = split(mesh.degrees.sequence, at_sequence(0), "sequence");
  mesh.stages = split(mesh.degrees.stages, {here.tensor, here.sequence, 0, here.branch}, "stages");
  mesh.guidance =
      split(mesh.degrees.branches, {here.tensor, here.sequence, here.stage, 0}, "guidance");
  if (mesh.degrees.stages > 1) {
    SplitEdges(world, mesh);
  }
  return mesh;
}

}  // namespace patchflow

#include "parallel/methods.h"

#include <algorithm>

#include "parallel/distrifusion.h"
#include "parallel/pipefusion.h"
#include "parallel/sequence_parallel.h"

namespace patchflow {
namespace {

constexpr Method kMethods[] = {
    {"pipefusion", [](const Layout& layout) { return layout.has_pipefusion(); }, MakePipeFusion},
    {"distrifusion", [](const Layout& layout) { return layout.distrifusion > 1; },
     MakeDistriFusion},
    {"sequence", [](const Layout& layout) { return !layout.is_stale(); }, MakeSequenceDenoiser},
};

}  // namespace

std::span<const Method> Methods() { return kMethods; }

std::unique_ptr<Denoiser> MakeDenoiser(const Transformer& transformer, const Layout& layout,
                                       const Mesh& mesh) {
  const auto methods = Methods();
  const auto found = std::find_if(methods.begin(), methods.end(),
                                  [&](const Method& method) { return method.serves(layout); });
  TORCH_CHECK(found != methods.end(), "no method serves the layout ", ToString(layout));
  return found->make(transformer, layout, mesh);
}

}  // namespace patchflow

// The table of methods: how the loop over the steps runs on a mesh.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "engine/denoiser.h"
#include "parallel/layout.h"
#include "parallel/mesh.h"

namespace patchflow {

struct Method {
  std::string_view name;
  bool (*serves)(const Layout& layout);
  std::unique_ptr<Denoiser> (*make)(const Transformer& transformer, const Layout& layout,
                                    const Mesh& mesh);
};

// The first that serves a layout is its method; the last serves all that are not stale.
std::span<const Method> Methods();

// Borrows transformer and mesh. Destroy it before the mesh: it may hold captured communication.
std::unique_ptr<Denoiser> MakeDenoiser(const Transformer& transformer, const Layout& layout,
                                       const Mesh& mesh);

}  // namespace patchflow

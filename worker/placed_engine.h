// A rank's engine together with its place in the group.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "parallel/layout.h"
#include "parallel/world.h"

namespace patchflow {

// Makes the rank's communicators and loads its share of the model; on the rank's thread. `world`
// outlives the engine. Collective. Refuses requests that the layout has too few tokens for:
// INVALID_ARGUMENT / INVALID_REQUEST.
absl::StatusOr<std::unique_ptr<Engine>> LoadPlacedEngine(const EngineOptions& options,
                                                         const Layout& layout,
                                                         const TransformerConfig& model,
                                                         World& world);

}  // namespace patchflow

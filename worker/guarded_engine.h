// An engine on communicators that may fail without anybody throwing.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/engine.h"

namespace patchflow {

// Kernels that wait for a peer end with anything when their world is aborted, and a replayed graph
// tells the host nothing of it. So `failure`, the reason of the abort or "", is asked at every
// step, after every phase and before a result is handed out: INTERNAL with the reason. Called on
// the rank's thread.
std::unique_ptr<Engine> GuardEngine(std::unique_ptr<Engine> engine,
                                    std::function<std::string()> failure);

}  // namespace patchflow

// One rank's place among all ranks of a group.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "parallel/communicator.h"

namespace patchflow {

// Outlives the communicators split from it. Used by the rank's own thread, but for Abort().
class World {
 public:
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // The communicator of the ranks that give the same color, in the order of their world ranks.
  // `name` is what errors and counters call it. Collective: every rank of the world calls it, in
  // the same order; a negative color takes part and gets nullptr. Blocks the host, bounded by the
  // timeout. Throws CommunicatorError.
  virtual std::unique_ptr<Communicator> Split(int color, std::string_view name) = 0;

  // Aborts every communicator of every rank of this process, now and for ever. Thread-safe.
  virtual void Abort(const std::string& reason) = 0;
};

}  // namespace patchflow

// Which ranks of its group a worker hosts, and whom it obeys, where the group has several workers.
#pragma once

#include <cstdint>
#include <string>

namespace patchflow {

struct Place {
  std::string world_id;
  int first_rank = 0;  // The lowest of this worker's.
};

// A front end and how often groups were formed or taken over before. Epochs start above 0.
struct Ownership {
  std::string owner;
  uint64_t epoch = 0;
  bool operator==(const Ownership&) const = default;
};

}  // namespace patchflow

// A world whose exchanges can be left out, written down, and made again by themselves.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "parallel/world.h"

namespace patchflow {

// An operation of a communicator, without its numbers.
struct Exchange {
  enum class Kind { kAllReduceSum, kAllGather, kAllToAll, kTransfers };
  struct Part {
    Communicator::Transfer::Kind kind;
    int64_t bytes;
    int peer;
  };
  size_t communicator = 0;  // In the order of the world's splits.
  Kind kind = Kind::kTransfers;
  std::vector<int64_t> sizes = {};  // Of a collective's input.
  at::ScalarType type = at::kByte;
  std::vector<Part> parts = {};  // Of transfers, sends and receives.
};

// What `longer` has beyond `shorter`, two records of the same program that ran for more and for
// fewer steps: of each communicator its last operations, in the order of `longer`. Ranks that all
// do this have operations that match, wherever each has its steps begin.
std::vector<Exchange> Beyond(const std::vector<Exchange>& longer,
                             const std::vector<Exchange>& shorter);

// On the rank's thread. `inner` outlives it as it outlives its communicators.
class StudiedWorld final : public World {
 public:
  enum class Mode {
    kAsIs,
    // Operations return at once. Nothing is sent, nobody waited for, nothing enqueued; what would
    // have been received is random numbers, drawn the first time that memory is received into, so
    // that kernels go on over finite numbers of usual size.
    kSilent,
    kRecord,  // As they are, and into the record.
  };
  StudiedWorld(World& inner, at::Device device);
  ~StudiedWorld() override;
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::unique_ptr<Communicator> Split(int color, std::string_view name) override;
  void Abort(const std::string& reason) override { inner_.Abort(reason); }

  // Of all communicators, from their next operation on. kRecord begins an empty record.
  void Set(Mode mode);
  const std::vector<Exchange>& record() const { return record_; }

  // Issues all, in order, over memory of its own, and then waits for them: operations of one
  // communicator run one after the other, different ones side by side. Collective; its
  // communicators must be alive.
  void Make(const std::vector<Exchange>& exchanges);

 private:
  friend class StudiedCommunicator;
  void Receive(const Tensor& t);  // What silence receives.
  void Reserve(const std::vector<Exchange>& exchanges);
  Pending Issue(const Exchange& exchange);

  World& inner_;
  const at::Device device_;
  Mode mode_ = Mode::kAsIs;
  std::vector<Exchange> record_;
  std::vector<Communicator*> communicators_;  // Inner ones, by index; not owned.
  std::set<std::pair<const void*, int64_t>> received_;
  std::map<size_t, Tensor> memory_;  // Bytes, by communicator.
};

}  // namespace patchflow

// The process of rank 0: runs the operations of ranks in other processes in their names.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "parallel/local_hub.h"
#include "parallel/tcp_door.h"

namespace patchflow {

// Takes in one guest for each rank from `first_guest` on who knows the door's secret. A guest that
// is gone without a goodbye, or breaks the rules, aborts the hub, and the hub's abort ends all
// guests with the reason.
class TcpHost {
 public:
  TcpHost(std::shared_ptr<LocalHub> hub, std::unique_ptr<TcpDoor> door, int first_guest,
          absl::Duration timeout);
  // Sends what is due, for 2 s a guest at most.
  ~TcpHost();
  TcpHost(const TcpHost&) = delete;
  TcpHost& operator=(const TcpHost&) = delete;

 private:
  class Guest;
  void Receive();
  // Whether this rank is to be taken in: none is twice.
  bool Take(int rank);

  const std::shared_ptr<LocalHub> hub_;
  const std::unique_ptr<TcpDoor> door_;
  const int first_guest_;
  const absl::Duration timeout_;
  std::mutex mutex_;
  bool closing_ = false;
  std::set<int> taken_;
  std::vector<std::unique_ptr<Guest>> guests_;
  std::thread receiver_;
};

}  // namespace patchflow

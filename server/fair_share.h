// How much of the groups each client has had: the least served goes first.
#pragma once

#include <cstddef>
#include <map>
#include <string>

namespace patchflow {

// Start-time fair queueing (Goyal, Vin, Cheng 1996): a client that comes, or comes back, starts at
// the share of the one served last, so idling saves up nothing, and being new gains nothing. Shares
// are device seconds. Idle clients beyond 4096 are forgotten, the least served first. For one
// thread at a time.
class FairShare {
 public:
  // One more of the client's requests waits.
  void Enter(const std::string& client);
  // One of them waits no longer and was not served.
  void Leave(const std::string& client);
  // One of them is served, at this cost.
  void Serve(const std::string& client, double device_seconds);
  // Of a client that waits, or of one that would enter now.
  double ShareOf(const std::string& client) const;
  size_t clients() const { return accounts_.size(); }

 private:
  struct Account {
    double served = 0;
    size_t waiting = 0;
  };
  void ForgetIdle();

  std::map<std::string, Account> accounts_;
  double floor_ = 0;  // Share of the one served last, before it was served.
};

}  // namespace patchflow

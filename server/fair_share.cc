#include "server/fair_share.h"

#include <algorithm>

namespace patchflow {
namespace {

constexpr size_t kMaxAccounts = 4096;

}  // namespace

void FairShare::Enter(const std::string& client) {
  Account& account = accounts_[client];
  if (account.waiting++ == 0) {
    account.served = std::max(account.served, floor_);
  }
}

void FairShare::Leave(const std::string& client) {
  auto found = accounts_.find(client);
  if (found != accounts_.end() && found->second.waiting > 0) {
    --found->second.waiting;
    ForgetIdle();
  }
}

void FairShare::Serve(const std::string& client, double device_seconds) {
  Account& account = accounts_[client];
  floor_ = std::max(floor_, account.served);
  account.served += device_seconds;
  Leave(client);
}

double FairShare::ShareOf(const std::string& client) const {
  auto found = accounts_.find(client);
  if (found == accounts_.end()) {
    return floor_;
  }
  return found->second.waiting > 0 ? found->second.served : std::max(found->second.served, floor_);
}

void FairShare::ForgetIdle() {
  for (auto it = accounts_.begin(); it != accounts_.end();) {
    const bool at_floor = it->second.waiting == 0 && it->second.served <= floor_;
    it = at_floor ? accounts_.erase(it) : std::next(it);
  }
  while (accounts_.size() > kMaxAccounts) {
    auto least = accounts_.end();
    for (auto it = accounts_.begin(); it != accounts_.end(); ++it) {
      if (it->second.waiting == 0 &&
          (least == accounts_.end() || it->second.served < least->second.served)) {
        least = it;
      }
    }
    if (least == accounts_.end()) {
      return;
    }
    accounts_.erase(least);
  }
}

}  // namespace patchflow

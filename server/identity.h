// Who a call comes from.
#pragma once

#include <string>

namespace patchflow {

struct Identity {
  // Of the token, or of the client's certificate; empty where neither is asked for. Owns the
  // request_ids of its generations.
  std::string name;
  // Whom rates and fair shares are counted for: the name, or without one the peer's address.
  std::string client;
  bool high_priority = true;  // May ask for PRIORITY_HIGH.
};

}  // namespace patchflow

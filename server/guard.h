// Who may come in.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "server/identity.h"
#include "server/tokens.h"

namespace patchflow {

// What a call shows of its caller.
struct Shown {
  std::string authorization;     // The header; empty without one.
  std::string certificate_name;  // Common name of a verified client certificate; empty without one.
  std::string peer;              // As gRPC writes it: "ipv4:10.0.0.1:4711".
};

// Thread-safe.
class Guard {
 public:
  // From now on a token of this table is asked for. Null: none.
  void SetTokens(std::shared_ptr<const TokenTable> tokens);
  bool asks_tokens() const;

  // The caller, if it may call `method` (see TokenTable::Check). Without tokens everyone may; a
  // client certificate then names the caller.
  absl::StatusOr<Identity> Check(const Shown& shown, const std::string& method) const;

 private:
  std::shared_ptr<const TokenTable> tokens() const;

  mutable std::mutex mutex_;
  std::shared_ptr<const TokenTable> tokens_;
};

}  // namespace patchflow

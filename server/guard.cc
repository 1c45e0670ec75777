#include "server/guard.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace patchflow {
namespace {

constexpr char kScheme[] = "Bearer ";

// "ipv4:10.0.0.1:4711" -> "ipv4:10.0.0.1": a client's connections are one client.
std::string HostOf(const std::string& peer) {
  if (peer.rfind("ipv4:", 0) != 0 && peer.rfind("ipv6:", 0) != 0) {
    return peer.substr(0, peer.find(':'));
  }
  return peer.substr(0, peer.rfind(':'));
}

}  // namespace

void Guard::SetTokens(std::shared_ptr<const TokenTable> tokens) {
  std::lock_guard<std::mutex> lock(mutex_);
  tokens_ = std::move(tokens);
}

std::shared_ptr<const TokenTable> Guard::tokens() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return tokens_;
}

bool Guard::asks_tokens() const { return tokens() != nullptr; }

absl::StatusOr<Identity> Guard::Check(const Shown& shown, const std::string& method) const {
  const auto table = tokens();
  if (table == nullptr) {
    const std::string& name = shown.certificate_name;
    return Identity{name, name.empty() ? HostOf(shown.peer) : name, true};
  }
  if (!absl::StartsWithIgnoreCase(shown.authorization, kScheme)) {
    return MakeError(absl::StatusCode::kUnauthenticated, reason::kUnauthenticated,
                     "a bearer token is needed: metadata 'authorization: Bearer TOKEN'");
  }
  return table->Check(shown.authorization.substr(sizeof kScheme - 1), method);
}

}  // namespace patchflow

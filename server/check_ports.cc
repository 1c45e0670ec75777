#include "server/check_ports.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

using Found = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

struct Held {
  std::string key;  // Of the configuration.
  std::string address;
  sockaddr_storage where{};
  int file = -1;
};

bool IsAny(const sockaddr_storage& where) {
  if (where.ss_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in&>(where).sin_addr.s_addr == htonl(INADDR_ANY);
  }
  return IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6&>(where).sin6_addr);
}

// In either family the port is at the same place.
in_port_t PortOf(const sockaddr_storage& where) {
  return reinterpret_cast<const sockaddr_in&>(where).sin_port;
}

// Whether a socket of one keeps the other from being bound. "::" takes both families.
bool Overlap(const sockaddr_storage& a, const sockaddr_storage& b) {
  if (PortOf(a) != PortOf(b)) {
    return false;
  }
  if (a.ss_family != b.ss_family) {
    return IsAny(a.ss_family == AF_INET6 ? a : b);
  }
  const bool equal = a.ss_family == AF_INET
                         ? reinterpret_cast<const sockaddr_in&>(a).sin_addr.s_addr ==
                               reinterpret_cast<const sockaddr_in&>(b).sin_addr.s_addr
                         : IN6_ARE_ADDR_EQUAL(&reinterpret_cast<const sockaddr_in6&>(a).sin6_addr,
                                              &reinterpret_cast<const sockaddr_in6&>(b).sin6_addr);
  return equal || IsAny(a) || IsAny(b);
}

// A socket that listens there; -1 and errno. Sockets that only are bound would not be in each
// other's way, as all let a port be used again at once.
int ListenOn(const addrinfo& address) {
  const int opened = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (opened < 0) {
    return -1;
  }
  const int yes = 1;
  const int no = 0;
  setsockopt(opened, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (address.ai_family == AF_INET6) {
    setsockopt(opened, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
  }
  if (bind(opened, address.ai_addr, address.ai_addrlen) == 0 && listen(opened, 1) == 0) {
    return opened;
  }
  const int why = errno;
  close(opened);
  errno = why;
  return -1;
}

class Ports {
 public:
  ~Ports() {
    for (const Held& one : held_) {
      close(one.file);
    }
  }

  // `both_families`: all addresses of this host are meant by those of one family too, as gRPC has
  // it.
  CheckRow Take(const char* key, const std::string& address, bool both_families) {
    const size_t colon = address.rfind(':');
    std::string host = address.substr(0, colon);
    const std::string port = address.substr(colon + 1);
    if (host.size() > 2 && host.front() == '[') {
      host = host.substr(1, host.size() - 2);
    }
    if (both_families && (host == "0.0.0.0" || host == "::")) {
      host = HasIpv6() ? "::" : "0.0.0.0";
    }
    addrinfo hints{};
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    if (const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &list); code != 0) {
      return {key, CheckRow::kBad, absl::StrCat(host, ": ", gai_strerror(code))};
    }
    return TakeAll(key, address, Found(list, freeaddrinfo));
  }

 private:
  static bool HasIpv6() {
    const int opened = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    const bool bound = bind(opened, reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0;
    close(opened);
    return bound;
  }

  // A name may stand for several addresses. One that another listener of ours takes makes it bad;
  // otherwise one that can be listened on is enough, as it is for the server.
  CheckRow TakeAll(const char* key, const std::string& address, const Found& list) {
    const size_t before = held_.size();
    std::string why;
    for (const addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
      Held taken{key, address, {}, ListenOn(*one)};
      const int error = errno;
      std::memcpy(&taken.where, one->ai_addr, one->ai_addrlen);
      if (taken.file >= 0) {
        held_.push_back(std::move(taken));
        continue;
      }
      why = std::strerror(error);
      for (const Held& other : held_) {
        if (error == EADDRINUSE && other.key != key && Overlap(other.where, taken.where)) {
          return {key, CheckRow::kBad,
                  absl::StrCat(address, " overlaps with ", other.key, ", ", other.address)};
        }
      }
    }
    return held_.size() > before ? CheckRow{key, CheckRow::kGood, absl::StrCat(address, " is free")}
                                 : CheckRow{key, CheckRow::kBad, absl::StrCat(address, ": ", why)};
  }

  std::vector<Held> held_;
};

CheckRow CheckSocket(const char* key, const std::string& address,
                     std::vector<std::pair<std::string, std::string>>& sockets) {
  const std::filesystem::path path =
      std::filesystem::absolute(address.substr(5)).lexically_normal();
  for (const auto& [other_path, other_key] : sockets) {
    if (other_path == path.string()) {
      return {key, CheckRow::kBad,
              absl::StrCat(address, " is the same socket as ", other_key, "'s")};
    }
  }
  sockets.emplace_back(path.string(), key);
  constexpr size_t kLimit = sizeof(sockaddr_un::sun_path) - 1;
  if (address.size() - 5 > kLimit) {
    return {key, CheckRow::kBad,
            absl::StrCat(address, ": a path of ", address.size() - 5, " bytes, limit ", kLimit)};
  }
  const std::string folder = path.parent_path().string();
  if (access(folder.c_str(), W_OK) != 0) {
    return {key, CheckRow::kBad, absl::StrCat(folder, ": ", std::strerror(errno))};
  }
  return {key, CheckRow::kGood, address};
}

}  // namespace

std::vector<CheckRow> CheckPorts(const ServerConfig& config) {
  std::vector<CheckRow> rows;
  std::vector<std::pair<std::string, std::string>> sockets;
  Ports ports;
  for (const auto& [key, address] :
       {std::pair{"server.listen", config.listen}, std::pair{"server.health", config.health},
        std::pair{"server.admin", config.admin}}) {
    if (!address.empty()) {
      rows.push_back(absl::StartsWith(address, "unix:") ? CheckSocket(key, address, sockets)
                                                        : ports.Take(key, address, true));
    }
  }
  if (absl::StartsWith(config.metrics, "unix:")) {
    rows.push_back(
        {"server.metrics", CheckRow::kBad, absl::StrCat(config.metrics, ": HTTP needs host:port")});
  } else if (!config.metrics.empty()) {
    rows.push_back(ports.Take("server.metrics", config.metrics, false));
  }
  return rows;
}

}  // namespace patchflow

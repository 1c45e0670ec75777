#include "parallel/tcp_door.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "parallel/communicator.h"

namespace patchflow {
namespace {

constexpr std::string_view kScheme = "tcp";
constexpr size_t kSecretBytes = 16;
constexpr size_t kMaxHostBytes = 180;
constexpr int kBacklog = 256;

[[noreturn]] void Fail(const char* what) {
  throw CommunicatorError(absl::StrCat("can't ", what, ": ", std::strerror(errno)));
}

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
}

std::string MakeSecret() {
  std::array<char, kSecretBytes> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    Fail("make a secret");
  }
  return absl::BytesToHexString({bytes.data(), bytes.size()});
}

// IPv4 on the loopback device; elsewhere IPv6 with IPv4 in it, or IPv4 on hosts without IPv6.
int Listen(bool loopback) {
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_any;
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY);
  int fd = loopback ? -1 : socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int both = 0;
  if (fd >= 0 && (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof both) != 0 ||
                  bind(fd, reinterpret_cast<sockaddr*>(&six), sizeof six) != 0)) {
    close(fd);
    fd = -1;
  }
  if (fd < 0) {
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&four), sizeof four) != 0) {
      Fail("bind a port for other ranks");
    }
  }
  if (listen(fd, kBacklog) != 0) {
    Fail("listen for other ranks");
  }
  return fd;
}

int PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    Fail("find the port for other ranks");
  }
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

}  // namespace

std::unique_ptr<TcpDoor> TcpDoor::Open(const std::string& host) {
  if (host.empty() || host.size() > kMaxHostBytes || host.find(' ') != std::string::npos) {
    throw CommunicatorError(absl::StrCat("host: '", host, "' is not a name of 1 to ", kMaxHostBytes,
                                         " bytes without spaces"));
  }
  const int fd = Listen(IsLoopback(host));
  const bool v4_loopback = host == "::1";  // That is where it listens.
  return std::unique_ptr<TcpDoor>(
      new TcpDoor(fd, v4_loopback ? "127.0.0.1" : host, PortOf(fd), MakeSecret()));
}

TcpDoor::TcpDoor(int fd, std::string host, int port, std::string secret)
    : fd_(fd), host_(std::move(host)), port_(port), secret_(std::move(secret)) {}

TcpDoor::~TcpDoor() { close(fd_); }

std::string TcpDoor::id() const {
  return absl::StrCat(std::string(kScheme), " ", host_, " ", port_, " ", secret_);
}

TcpAddress TcpAddressOf(const std::string& id) {
  const std::vector<std::string> parts = absl::StrSplit(id, ' ');
  if (parts.size() != 4 || parts[0] != kScheme || parts[3].size() != 2 * kSecretBytes) {
    throw CommunicatorError("the id of the world is not one of ranks over TCP");
  }
  return {parts[1], parts[2], parts[3]};
}

}  // namespace patchflow

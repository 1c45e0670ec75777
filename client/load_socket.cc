#include "client/load_socket.h"

#include <fcntl.h>
#include <grpcpp/create_channel_posix.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace patchflow {
namespace {

absl::Status Failed(const std::string& address, const std::string& why) {
  return absl::UnavailableError(absl::StrCat("can't connect to ", address, ": ", why));
}

// A non-blocking socket, connected; -1 with errno.
int ConnectTo(int family, const sockaddr* to, socklen_t length, int timeout_ms) {
  const int socket = ::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket < 0) return -1;
  int error = connect(socket, to, length) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd wait{socket, POLLOUT, 0};
    socklen_t size = sizeof error;
    if (poll(&wait, 1, timeout_ms) <= 0) {
      error = ETIMEDOUT;
    } else {
      getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
    }
  }
  if (error == 0) return socket;
  close(socket);
  errno = error;
  return -1;
}

absl::StatusOr<int> ConnectUnix(const std::string& address, const std::string& path,
                                int timeout_ms) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if (path.size() >= sizeof to.sun_path) return Failed(address, "the path is too long");
  path.copy(to.sun_path, path.size());
  const int socket =
      ConnectTo(AF_UNIX, reinterpret_cast<const sockaddr*>(&to), sizeof to, timeout_ms);
  if (socket < 0) return Failed(address, std::strerror(errno));
  return socket;
}

absl::StatusOr<int> ConnectTcp(const std::string& address, int timeout_ms) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return Failed(address, "it is not HOST:PORT");
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found))
    return Failed(address, gai_strerror(error));
  int socket = -1;
  for (const addrinfo* each = found; each != nullptr && socket < 0; each = each->ai_next)
    socket = ConnectTo(each->ai_family, each->ai_addr, each->ai_addrlen, timeout_ms);
  const int error = errno;
  freeaddrinfo(found);
  if (socket < 0) return Failed(address, std::strerror(error));
  return socket;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CuttableChannel>> CuttableChannel::Connect(
    const std::string& address, absl::Duration timeout) {
  const auto timeout_ms = static_cast<int>(absl::ToInt64Milliseconds(timeout));
  absl::string_view path = address;
  const auto socket = absl::ConsumePrefix(&path, "unix:")
                          ? ConnectUnix(address, std::string(path), timeout_ms)
                          : ConnectTcp(address, timeout_ms);
  if (!socket.ok()) return socket.status();
  const int own = fcntl(*socket, F_DUPFD_CLOEXEC, 0);
  if (own < 0) {
    close(*socket);
    return Failed(address, std::strerror(errno));
  }
  return std::unique_ptr<CuttableChannel>(new CuttableChannel(address, *socket, own));
}

CuttableChannel::CuttableChannel(const std::string& address, int socket, int own)
    : own_(own), channel_(grpc::CreateInsecureChannelFromFd(address, socket)) {}

CuttableChannel::~CuttableChannel() { close(own_); }

void CuttableChannel::Cut() { shutdown(own_, SHUT_RDWR); }

}  // namespace patchflow

#include "parallel/tcp_socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "parallel/communicator.h"

namespace patchflow {
namespace {

constexpr uint64_t kMaxTextBytes = 1 << 20;
// A host that is gone without a word is noticed after 25 s.
constexpr std::pair<int, int> kHostLoss[] = {
    {TCP_KEEPIDLE, 10}, {TCP_KEEPINTVL, 5}, {TCP_KEEPCNT, 3}, {TCP_USER_TIMEOUT, 25000}};
constexpr auto kRetry = std::chrono::milliseconds(50);

[[noreturn]] void Fail(const std::string& what) {
  throw CommunicatorError(absl::StrCat("connection between processes: ", what));
}

// Waits until `events` or the end of the connection.
void Await(int fd, int16_t events, TcpSocket::Clock::time_point deadline, const char* what) {
  while (true) {
    int wait_ms = -1;
    if (deadline != TcpSocket::kNever) {
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(deadline - TcpSocket::Clock::now());
      if (left.count() <= 0) {
        Fail(absl::StrCat(what, ": not within the timeout"));
      }
      wait_ms = static_cast<int>(std::min<int64_t>(left.count(), 1000000));
    }
    pollfd of{fd, events, 0};
    if (poll(&of, 1, wait_ms) > 0) {
      return;
    }
  }
}

// One try; -1 with errno.
int TryConnect(const addrinfo& address, TcpSocket::Clock::time_point deadline) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return -1;
  }
  int error = connect(fd, address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    Await(fd, POLLOUT, deadline, "connect");
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  }
  if (error == 0) {
    return fd;
  }
  close(fd);
  errno = error;
  return -1;
}

}  // namespace

TcpSocket::TcpSocket(int fd) : fd_(fd) {
  const int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  for (const auto& [option, value] : kHostLoss) {
    setsockopt(fd_, IPPROTO_TCP, option, &value, sizeof value);
  }
  fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) | O_NONBLOCK);
}

TcpSocket::~TcpSocket() { close(fd_); }

int TcpSocket::Connect(const std::string& host, const std::string& port,
                       Clock::time_point deadline) {
  std::string why;
  while (true) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
    if (code != 0) {
      why = gai_strerror(code);
    }
    for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
      if (const int fd = TryConnect(*address, deadline); fd >= 0) {
        return fd;
      }
      why = std::strerror(errno);
    }
    if (Clock::now() + kRetry >= deadline) {
      Fail(absl::StrCat("can't reach rank 0 at ", host, ":", port, ": ", why));
    }
    std::this_thread::sleep_for(kRetry);
  }
}

void TcpSocket::Send(const TcpFrame& frame, Clock::time_point deadline) {
  const std::lock_guard<std::mutex> lock(sending_);
  SendLocked(frame, deadline);
}

void TcpSocket::TrySend(const TcpFrame& frame) {
  const std::unique_lock<std::mutex> lock(sending_, std::try_to_lock);
  if (lock.owns_lock()) {
    SendLocked(frame, Clock::now());
  }
}

void TcpSocket::SendLocked(const TcpFrame& frame, Clock::time_point deadline) {
  TcpHeader header{.word = static_cast<uint32_t>(frame.word),
                   .channel = frame.channel,
                   .number = frame.number,
                   .text_bytes = frame.text.size(),
                   .data_bytes = 0};
  for (const at::Tensor& t : frame.data) {
    header.data_bytes += t.nbytes();
  }
  std::string begin(reinterpret_cast<const char*>(&header), sizeof header);
  begin += frame.text;
  SendAll(begin.data(), begin.size(), deadline);
  for (const at::Tensor& t : frame.data) {
    SendAll(t.const_data_ptr(), t.nbytes(), deadline);
  }
}

void TcpSocket::SendAll(const void* from, uint64_t bytes, Clock::time_point deadline) {
  const auto* next = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t sent = send(fd_, next, bytes, MSG_NOSIGNAL);
    if (sent > 0) {
      next += sent;
      bytes -= static_cast<uint64_t>(sent);
    } else if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      Await(fd_, POLLOUT, deadline, "send");
    } else if (sent == 0 || errno != EINTR) {
      Fail(absl::StrCat("send: ", std::strerror(errno)));
    }
  }
}

std::optional<TcpSocket::Received> TcpSocket::ReceiveFrame(Clock::time_point deadline) {
  TcpHeader header;
  if (!ReceiveAll(&header, sizeof header, deadline)) {
    return std::nullopt;
  }
  if (header.word > static_cast<uint32_t>(TcpWord::kEndWorld) ||
      header.text_bytes > kMaxTextBytes) {
    Fail("what comes is no frame");
  }
  Received received;
  received.frame.word = static_cast<TcpWord>(header.word);
  received.frame.channel = header.channel;
  received.frame.number = header.number;
  received.frame.text.resize(header.text_bytes);
  received.data_bytes = header.data_bytes;
  Receive(received.frame.text.data(), header.text_bytes, deadline);
  return received;
}

void TcpSocket::Receive(void* to, uint64_t bytes, Clock::time_point deadline) {
  if (!ReceiveAll(to, bytes, deadline)) {
    Fail("it ended in the middle of a frame");
  }
}

bool TcpSocket::ReceiveAll(void* to, uint64_t bytes, Clock::time_point deadline) {
  auto* next = static_cast<char*>(to);
  uint64_t left = bytes;
  while (left > 0) {
    const ssize_t got = recv(fd_, next, left, 0);
    if (got > 0) {
      next += got;
      left -= static_cast<uint64_t>(got);
    } else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      Await(fd_, POLLIN, deadline, "receive");
    } else if (got == 0 || errno == ECONNRESET) {
      if (left == bytes) {
        return false;
      }
      Fail("it ended in the middle of a frame");
    } else if (errno != EINTR) {
      Fail(absl::StrCat("receive: ", std::strerror(errno)));
    }
  }
  return true;
}

void TcpSocket::Shutdown() { shutdown(fd_, SHUT_RDWR); }
void TcpSocket::ShutdownSending() { shutdown(fd_, SHUT_WR); }

}  // namespace patchflow

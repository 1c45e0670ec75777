// Where the ranks of other processes come in.
#pragma once

#include <memory>
#include <string>

namespace patchflow {

// A listening socket with an id: an address and a secret, which whoever has it can take part with.
// Nothing is encrypted. Used by one thread at a time.
class TcpDoor {
 public:
  // Listens on a free port, on the loopback device alone if `host` is on it. `host` is this host's
  // name or address as others know it. Throws CommunicatorError.
  static std::unique_ptr<TcpDoor> Open(const std::string& host);
  ~TcpDoor();
  TcpDoor(const TcpDoor&) = delete;
  TcpDoor& operator=(const TcpDoor&) = delete;

  // At most 256 bytes.
  std::string id() const;
  const std::string& secret() const { return secret_; }
  int fd() const { return fd_; }

 private:
  TcpDoor(int fd, std::string host, int port, std::string secret);

  const int fd_;
  const std::string host_;
  const int port_;
  const std::string secret_;
};

// What an id says. Throws CommunicatorError for what is none.
struct TcpAddress {
  std::string host;
  std::string port;
  std::string secret;
};
TcpAddress TcpAddressOf(const std::string& id);

}  // namespace patchflow

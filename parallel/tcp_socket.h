// Frames over one TCP connection between two processes of one build.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace patchflow {

// What a frame says. Those that a guest sends come first.
enum class TcpWord : uint32_t {
  kHello,       // number: world size; channel: rank; text: the secret.
  kSplit,       // number: which; channel: color; text: name.
  kOperation,   // number: of this channel's operations; text: see TcpOperation; data: inputs.
  kGoodbye,     // Nothing more will come.
  kSplitDone,   // number: which; channel: the new one or -1; text: rank and size in it.
  kDone,        // number: which operation; data: outputs.
  kEndChannel,  // Both ways. text: reason.
  kEndWorld,    // Both ways. text: reason.
};

struct TcpFrame {
  TcpWord word = TcpWord::kHello;
  int32_t channel = -1;
  int64_t number = 0;
  std::string text{};
  std::vector<at::Tensor> data{};  // Contiguous, in host memory. Only of frames to be sent.
};

// Header as it travels: little-endian, as both hosts are.
struct TcpHeader {
  uint32_t word = 0;
  int32_t channel = 0;
  int64_t number = 0;
  uint64_t text_bytes = 0;
  uint64_t data_bytes = 0;
};

// Owns a connected socket. One thread receives at a time; the rest is thread-safe.
// Everything throws CommunicatorError when the other side is gone or `deadline` passes.
class TcpSocket {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::time_point kNever = Clock::time_point::max();

  explicit TcpSocket(int fd);
  ~TcpSocket();
  TcpSocket(const TcpSocket&) = delete;
  TcpSocket& operator=(const TcpSocket&) = delete;

  // Tries again until the deadline.
  static int Connect(const std::string& host, const std::string& port, Clock::time_point deadline);

  void Send(const TcpFrame& frame, Clock::time_point deadline);
  // Unless a frame is being sent, or this one can't be at once. Without data.
  void TrySend(const TcpFrame& frame);
  // Header and text of the next frame; then the data must be taken with Receive(). Nothing once
  // the other side has ended the connection between two frames.
  struct Received {
    TcpFrame frame;
    uint64_t data_bytes = 0;
  };
  std::optional<Received> ReceiveFrame(Clock::time_point deadline);
  void Receive(void* to, uint64_t bytes, Clock::time_point deadline);

  // Ends every wait on it, for good.
  void Shutdown();
  // No more will be sent.
  void ShutdownSending();

 private:
  void SendAll(const void* from, uint64_t bytes, Clock::time_point deadline);
  // False at the end of the connection, if nothing was received.
  bool ReceiveAll(void* to, uint64_t bytes, Clock::time_point deadline);

  void SendLocked(const TcpFrame& frame, Clock::time_point deadline);

  const int fd_;
  std::mutex sending_;
};

}  // namespace patchflow

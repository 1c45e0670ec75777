// A rank outside the process of rank 0.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "parallel/communicator.h"
#include "parallel/local_channel.h"
#include "parallel/tcp_door.h"
#include "parallel/tcp_socket.h"

namespace patchflow {

// Operations that were forgotten, of all guests of a process. Thread-safe.
class TcpLedger {
 public:
  void Report(std::string what);
  std::vector<std::string> Unwaited();

 private:
  std::mutex mutex_;
  std::vector<std::string> unwaited_;
};

// The connection of one rank to its host. Used by the rank's thread, but for Abort() and
// Describe(). Everything that waits throws CommunicatorError: on a fault, on the end of the world,
// after the timeout.
class TcpGuest : public std::enable_shared_from_this<TcpGuest> {
 public:
  TcpGuest(TcpAddress host, int rank, int size, absl::Duration timeout,
           std::shared_ptr<TcpLedger> ledger);
  ~TcpGuest();
  TcpGuest(const TcpGuest&) = delete;
  TcpGuest& operator=(const TcpGuest&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  std::unique_ptr<Communicator> Split(int color, std::string_view name);
  // Thread-safe.
  void Abort(const std::string& reason);

 private:
  class Channel;
  class Work;
  struct Issued;

  void Connect();
  void Send(const TcpFrame& frame);
  // Sends what the channel holds back, as far as it has what it reads.
  void SendReady(int channel);
  bool ReadsUndone(const Issued& issued) const;
  // Takes the next frame, whatever it is. `what` says what is waited for.
  void TakeNext(TcpSocket::Clock::time_point deadline, const std::string& what);
  void TakeDone(const TcpFrame& frame, uint64_t data_bytes, TcpSocket::Clock::time_point deadline);
  void Await(const Issued& issued);
  TcpSocket::Clock::time_point Deadline() const;
  bool aborted();
  void ThrowIfAborted();
  [[noreturn]] void Fail(const std::string& reason);

  const TcpAddress host_;
  const int rank_;
  const int size_;
  const absl::Duration timeout_;
  const std::shared_ptr<TcpLedger> ledger_;
  int64_t splits_ = 0;
  int64_t splits_done_ = 0;
  TcpFrame split_;  // The last one that is done.
  // By channel, in order. The inputs of an operation are read when those before it are done: one
  // that reads what another writes is held back until then.
  std::map<int, std::deque<std::shared_ptr<Issued>>> issued_;
  std::map<int, std::string> ended_;  // Channels, with the reason.

  std::mutex mutex_;  // Guards what Abort() shares.
  std::unique_ptr<TcpSocket> socket_;
  std::string aborted_;
};

}  // namespace patchflow

#include "parallel/tcp_guest.h"

#include <algorithm>
#include <exception>

#include "absl/strings/str_cat.h"
#include "parallel/host_communicator.h"
#include "parallel/tcp_operation.h"

namespace patchflow {
namespace {

// The host listens before anybody knows its address.
constexpr auto kReach = std::chrono::seconds(60);

}  // namespace

void TcpLedger::Report(std::string what) {
  const std::lock_guard<std::mutex> lock(mutex_);
  unwaited_.push_back(std::move(what));
}

std::vector<std::string> TcpLedger::Unwaited() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return unwaited_;
}

struct TcpGuest::Issued {
  LocalOperation operation;
  int channel = 0;
  int64_t number = 0;
  std::string what;
  bool sent = false;
  bool done = false;
};

class TcpGuest::Work final : public Pending::Work {
 public:
  Work(std::shared_ptr<TcpGuest> guest, std::shared_ptr<Issued> issued)
      : guest_(std::move(guest)), issued_(std::move(issued)) {}
  ~Work() override {
    if (!waited_ && std::uncaught_exceptions() == 0 && !guest_->aborted()) {
      guest_->ledger_->Report(issued_->what);
    }
  }
  void Wait() override {
    waited_ = true;
    guest_->Await(*issued_);
  }

 private:
  const std::shared_ptr<TcpGuest> guest_;
  const std::shared_ptr<Issued> issued_;
  bool waited_ = false;
};

class TcpGuest::Channel final : public HostCommunicator {
 public:
  Channel(std::shared_ptr<TcpGuest> guest, int channel, int rank, int size, std::string name)
      : guest_(std::move(guest)),
        channel_(channel),
        rank_(rank),
        size_(size),
        name_(std::move(name)) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void Abort(const std::string& reason) override {
    try {
      guest_->Send({.word = TcpWord::kEndChannel, .channel = channel_, .text = reason});
    } catch (const CommunicatorError&) {
      // The world has ended, and with it this.
    }
  }

 private:
  Pending Issue(LocalOperation operation) override {
    if (const auto ended = guest_->ended_.find(channel_); ended != guest_->ended_.end()) {
      throw CommunicatorError(absl::StrCat(name_, " communicator was aborted: ", ended->second));
    }
    guest_->ThrowIfAborted();
    const int64_t number = next_++;
    auto issued = std::make_shared<Issued>();
    issued->what =
        absl::StrCat(name_, " communicator, rank ", rank_, " of ", size_, ": operation #", number);
    issued->channel = channel_;
    issued->number = number;
    issued->operation = std::move(operation);
    guest_->issued_[channel_].push_back(issued);
    guest_->SendReady(channel_);
    return Pending(std::make_unique<Work>(guest_, std::move(issued)));
  }

  const std::shared_ptr<TcpGuest> guest_;
  const int channel_;
  const int rank_;
  const int size_;
  const std::string name_;
  int64_t next_ = 0;
};

TcpGuest::TcpGuest(TcpAddress host, int rank, int size, absl::Duration timeout,
                   std::shared_ptr<TcpLedger> ledger)
    : host_(std::move(host)),
      rank_(rank),
      size_(size),
      timeout_(timeout),
      ledger_(std::move(ledger)) {}

TcpGuest::~TcpGuest() {
  try {
    if (socket_ != nullptr && aborted_.empty()) {
      Send({.word = TcpWord::kGoodbye});
    }
  } catch (const CommunicatorError&) {
    // The host is gone first.
  }
}

TcpSocket::Clock::time_point TcpGuest::Deadline() const {
  return TcpSocket::Clock::now() + absl::ToChronoNanoseconds(timeout_);
}

void TcpGuest::Connect() {
  ThrowIfAborted();
  if (socket_ != nullptr) {
    return;
  }
  auto socket = std::make_unique<TcpSocket>(TcpSocket::Connect(
      host_.host, host_.port, std::min(Deadline(), TcpSocket::Clock::now() + kReach)));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    socket_ = std::move(socket);
  }
  Send({.word = TcpWord::kHello, .channel = rank_, .number = size_, .text = host_.secret});
}

void TcpGuest::Send(const TcpFrame& frame) {
  try {
    socket_->Send(frame, Deadline());
  } catch (const CommunicatorError& error) {
    Fail(error.what());
  }
}

std::unique_ptr<Communicator> TcpGuest::Split(int color, std::string_view name) {
  Connect();
  Send({.word = TcpWord::kSplit, .channel = color, .number = splits_++, .text = std::string(name)});
  const auto deadline = Deadline();
  while (splits_done_ < splits_) {
    TakeNext(deadline, absl::StrCat("for others to split off '", std::string(name), "'"));
  }
  if (split_.channel < 0) {
    return nullptr;
  }
  const std::vector<int64_t> place = UnpackNumbers(split_.text);
  return std::make_unique<Channel>(shared_from_this(), split_.channel,
                                   static_cast<int>(place.at(0)), static_cast<int>(place.at(1)),
                                   std::string(name));
}

void TcpGuest::TakeNext(TcpSocket::Clock::time_point deadline, const std::string& what) {
  ThrowIfAborted();
  try {
    auto received = socket_->ReceiveFrame(deadline);
    if (!received.has_value()) {
      Fail("the process of rank 0 is gone");
    }
    TcpFrame& frame = received->frame;
    if (frame.word == TcpWord::kDone) {
      TakeDone(frame, received->data_bytes, deadline);
    } else if (frame.word == TcpWord::kSplitDone) {
      ++splits_done_;
      split_ = std::move(frame);
    } else if (frame.word == TcpWord::kEndChannel) {
      ended_.emplace(frame.channel, frame.text);
    } else {
      Fail(frame.text);
    }
  } catch (const CommunicatorError& error) {
    ThrowIfAborted();
    Fail(TcpSocket::Clock::now() < deadline
             ? std::string(error.what())
             : absl::StrCat("rank ", rank_, " waited ", absl::FormatDuration(timeout_), " ", what));
  }
}

void TcpGuest::TakeDone(const TcpFrame& frame, uint64_t data_bytes,
                        TcpSocket::Clock::time_point deadline) {
  std::deque<std::shared_ptr<Issued>>& queue = issued_[frame.channel];
  if (queue.empty() || !queue.front()->sent || queue.front()->number != frame.number) {
    throw CommunicatorError("the host has done what nobody asked for");
  }
  const std::shared_ptr<Issued> issued = std::move(queue.front());
  queue.pop_front();
  uint64_t expected = 0;
  for (const Tensor& output : OutputsOf(issued->operation)) {
    expected += output.nbytes();
  }
  if (expected != data_bytes) {
    throw CommunicatorError("the host's result has another size than the operation");
  }
  for (const Tensor& output : OutputsOf(issued->operation)) {
    socket_->Receive(output.data_ptr(), output.nbytes(), deadline);
  }
  issued->done = true;
  SendReady(frame.channel);
}

bool TcpGuest::ReadsUndone(const Issued& issued) const {
  for (const auto& before : issued_.at(issued.channel)) {
    if (before.get() == &issued) {
      return false;
    }
    for (const Tensor& output : OutputsOf(before->operation)) {
      for (const Tensor& input : InputsOf(issued.operation)) {
        if (output.is_alias_of(input)) {
          return true;
        }
      }
    }
  }
  return false;
}

void TcpGuest::SendReady(int channel) {
  for (const auto& issued : issued_.at(channel)) {
    if (issued->sent) {
      continue;
    }
    if (ReadsUndone(*issued)) {
      return;
    }
    issued->sent = true;
    Send({.word = TcpWord::kOperation,
          .channel = channel,
          .number = issued->number,
          .text = DescribeOperation(issued->operation),
          .data = InputsOf(issued->operation)});
  }
}

void TcpGuest::Await(const Issued& issued) {
  const auto deadline = Deadline();
  while (!issued.done) {
    if (const auto ended = ended_.find(issued.channel); ended != ended_.end()) {
      throw CommunicatorError(absl::StrCat(issued.what, " was aborted: ", ended->second));
    }
    TakeNext(deadline, absl::StrCat("for ", issued.what));
  }
}

bool TcpGuest::aborted() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return !aborted_.empty();
}

void TcpGuest::ThrowIfAborted() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!aborted_.empty()) {
    throw CommunicatorError(absl::StrCat("the world was aborted: ", aborted_));
  }
}

void TcpGuest::Fail(const std::string& reason) {
  Abort(reason);
  ThrowIfAborted();
  throw CommunicatorError(reason);
}

// The host hears the reason if its way is free at once; that the connection ends, it hears always.
void TcpGuest::Abort(const std::string& reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!aborted_.empty()) {
    return;
  }
  aborted_ = reason.empty() ? "no reason given" : reason;
  if (socket_ == nullptr) {
    return;
  }
  try {
    socket_->TrySend({.word = TcpWord::kEndWorld, .text = aborted_});
  } catch (const CommunicatorError&) {
    // It is gone.
  }
  socket_->Shutdown();
}

}  // namespace patchflow

#include "parallel/tcp_host.h"

#include <poll.h>
#include <sys/socket.h>

#include <deque>
#include <functional>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "parallel/tcp_operation.h"
#include "parallel/tcp_socket.h"

namespace patchflow {
namespace {

constexpr auto kIntroduction = std::chrono::seconds(10);
constexpr auto kFarewell = std::chrono::seconds(2);
constexpr int kLookMs = 100;
constexpr size_t kMaxStrangers = 64;

// Frames that wait to be sent. Thread-safe.
class Outbox {
 public:
  void Push(TcpFrame frame) {
    const std::lock_guard<std::mutex> lock(mutex_);
    frames_.push_back(std::move(frame));
    changed_.notify_all();
  }
  // No more will be pushed that has to be sent.
  void Close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  // Nothing once it is closed and empty.
  std::optional<TcpFrame> Pop() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || !frames_.empty(); });
    if (frames_.empty()) {
      return std::nullopt;
    }
    TcpFrame frame = std::move(frames_.front());
    frames_.pop_front();
    return frame;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<TcpFrame> frames_;
  bool closed_ = false;
};

}  // namespace

// One connection: a thread that receives and one that sends.
class TcpHost::Guest {
 public:
  Guest(TcpHost& host, int fd)
      : host_(host), hub_(*host.hub_), socket_(fd), receiver_([this] { Receive(); }) {}
  ~Guest() {
    outbox_->Close();
    WaitSent();
    socket_.Shutdown();
    receiver_.join();
  }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  bool gone() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return gone_;
  }

 private:
  void Receive();
  bool Introduce();
  void Serve();
  void Take(const TcpSocket::Received& received);
  void Split(const TcpFrame& frame);
  void Operate(const TcpFrame& frame, uint64_t data_bytes);
  void Send();
  LocalHub::Member MemberOf(int channel);
  void WaitSent();

  TcpHost& host_;
  LocalHub& hub_;
  TcpSocket socket_;
  const std::shared_ptr<Outbox> outbox_ = std::make_shared<Outbox>();
  int rank_ = -1;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool gone_ = false;
  bool sent_ = false;                        // All that will be.
  std::map<int, LocalHub::Member> members_;  // By the number that the guest knows a channel by.
  std::thread receiver_;
};

void TcpHost::Guest::Receive() {
  std::thread sender;
  try {
    if (Introduce()) {
      sender = std::thread([this] { Send(); });
      Serve();
    }
  } catch (const std::exception& error) {
    if (rank_ >= 0) {
      hub_.Abort(absl::StrCat("rank ", rank_, ": ", error.what()));
    }
  }
  outbox_->Close();
  if (sender.joinable()) {
    sender.join();
  }
  socket_.Shutdown();
  const std::lock_guard<std::mutex> lock(mutex_);
  gone_ = true;
  changed_.notify_all();
}

// A stranger is let go without a word.
bool TcpHost::Guest::Introduce() {
  const auto until = TcpSocket::Clock::now() + kIntroduction;
  const auto hello = socket_.ReceiveFrame(until);
  if (!hello.has_value() || hello->frame.word != TcpWord::kHello ||
      hello->frame.text != host_.door_->secret() || hello->frame.number != hub_.size() ||
      !host_.Take(hello->frame.channel)) {
    return false;
  }
  rank_ = hello->frame.channel;
  hub_.OnAbort([outbox = outbox_](const std::string& reason) {
    outbox->Push({.word = TcpWord::kEndWorld, .text = reason});
    outbox->Close();
  });
  return true;
}

void TcpHost::Guest::Serve() {
  while (auto received = socket_.ReceiveFrame(TcpSocket::kNever)) {
    if (received->frame.word == TcpWord::kGoodbye) {
      return;
    }
    Take(*received);
  }
  hub_.Abort(absl::StrCat("the process of rank ", rank_, " is gone"));
}

void TcpHost::Guest::Take(const TcpSocket::Received& received) {
  const TcpFrame& frame = received.frame;
  switch (frame.word) {
    case TcpWord::kSplit:
      return Split(frame);
    case TcpWord::kOperation:
      return Operate(frame, received.data_bytes);
    case TcpWord::kEndChannel:
      return MemberOf(frame.channel).channel->Abort(frame.text);
    case TcpWord::kEndWorld:
      return hub_.Abort(frame.text);
    default:
      throw CommunicatorError("it says what no guest says");
  }
}

void TcpHost::Guest::Split(const TcpFrame& frame) {
  const int64_t index = frame.number;
  hub_.Arrive(static_cast<size_t>(index), rank_, frame.channel, frame.text,
              [this, index](const LocalHub::Member& member) {
                TcpFrame answer{.word = TcpWord::kSplitDone, .number = index};
                if (member.channel != nullptr) {
                  answer.channel = static_cast<int32_t>(index);
                  answer.text = PackNumbers({member.rank, member.channel->size()});
                  const std::lock_guard<std::mutex> lock(mutex_);
                  members_[answer.channel] = member;
                }
                outbox_->Push(std::move(answer));
                if (member.channel != nullptr) {
                  member.channel->OnAbort([outbox = outbox_, index](const std::string& reason) {
                    outbox->Push({.word = TcpWord::kEndChannel,
                                  .channel = static_cast<int32_t>(index),
                                  .text = reason});
                  });
                }
              });
}

LocalHub::Member TcpHost::Guest::MemberOf(int channel) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = members_.find(channel);
  if (found == members_.end()) {
    throw CommunicatorError("it has no such communicator");
  }
  return found->second;
}

void TcpHost::Guest::Operate(const TcpFrame& frame, uint64_t data_bytes) {
  const LocalHub::Member member = MemberOf(frame.channel);
  auto operation = std::make_shared<LocalOperation>(
      OperationOf(frame.text, member.rank, member.channel->size()));
  uint64_t expected = 0;
  for (const Tensor& input : InputsOf(*operation)) {
    expected += input.nbytes();
  }
  if (expected != data_bytes) {
    throw CommunicatorError("its operation and what comes with it differ in size");
  }
  for (const Tensor& input : InputsOf(*operation)) {
    socket_.Receive(input.data_ptr(), input.nbytes(), TcpSocket::kNever);
  }
  operation->on_done = [outbox = outbox_, channel = frame.channel,
                        number = frame.number](const LocalOperation& done) {
    outbox->Push(
        {.word = TcpWord::kDone, .channel = channel, .number = number, .data = OutputsOf(done)});
  };
  try {
    member.channel->Issue(member.rank, operation);
  } catch (const CommunicatorError&) {
    // The guest is told by the hook of the channel; what it issued before that comes in still.
    if (!member.channel->aborted()) {
      throw;
    }
  }
}

void TcpHost::Guest::Send() {
  try {
    while (const auto frame = outbox_->Pop()) {
      socket_.Send(*frame, TcpSocket::Clock::now() + absl::ToChronoNanoseconds(host_.timeout_));
    }
    socket_.ShutdownSending();
  } catch (const std::exception& error) {
    hub_.Abort(absl::StrCat("to rank ", rank_, ": ", error.what()));
    socket_.Shutdown();
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  sent_ = true;
  changed_.notify_all();
}

void TcpHost::Guest::WaitSent() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, kFarewell, [this] { return gone_ || sent_; });
}

TcpHost::TcpHost(std::shared_ptr<LocalHub> hub, std::unique_ptr<TcpDoor> door, int first_guest,
                 absl::Duration timeout)
    : hub_(std::move(hub)),
      door_(std::move(door)),
      first_guest_(first_guest),
      timeout_(timeout),
      receiver_([this] { Receive(); }) {}

TcpHost::~TcpHost() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  shutdown(door_->fd(), SHUT_RDWR);  // Ends the receiver's wait.
  receiver_.join();
  guests_.clear();
}

bool TcpHost::Take(int rank) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return rank >= first_guest_ && rank < hub_->size() && taken_.insert(rank).second;
}

void TcpHost::Receive() {
  while (true) {
    pollfd door{door_->fd(), POLLIN, 0};
    const bool somebody = poll(&door, 1, kLookMs) > 0;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closing_) {
      return;
    }
    if (!somebody) {
      continue;
    }
    const int fd = accept4(door_->fd(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) {
      continue;
    }
    if (guests_.size() >= static_cast<size_t>(hub_->size()) + kMaxStrangers) {
      std::erase_if(guests_, [](const auto& guest) { return guest->gone(); });
    }
    guests_.push_back(std::make_unique<Guest>(*this, fd));
  }
}

}  // namespace patchflow

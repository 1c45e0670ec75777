#include "server/stream_call.h"

#include <condition_variable>
#include <deque>
#include <utility>

#include "server/errors.h"
#include "server/log.h"
#include "server/outbox.h"
#include "server/status.h"

namespace patchflow {
namespace {

using Writer = grpc::ServerWriteReactor<grpc::ByteBuffer>;

class StreamCall final : public Stream {
 public:
  StreamCall(const CallServices& services, const char* method, grpc::CallbackServerContext* context,
             EncodeMessage encode)
      : Stream(services, method, context->peer()), context_(context), encode_(std::move(encode)) {}

  // Owned by gRPC, and holds its call until gRPC is done with both.
  class Reactor final : public Writer {
   public:
    explicit Reactor(std::shared_ptr<StreamCall> call) : call_(std::move(call)) {}
    void OnWriteDone(bool ok) override { call_->WriteDone(ok); }
    void OnCancel() override { call_->ClientGone(); }
    void OnDone() override {
      call_->StreamDone();
      delete this;
    }

   private:
    const std::shared_ptr<StreamCall> call_;
  };

  Writer* reactor() override { return reactor_; }

  void Open() {
    services_.metrics.streams_open().Increment();
    reactor_ = new Reactor(std::static_pointer_cast<StreamCall>(shared_from_this()));
  }

  void Begin(std::shared_ptr<Generation> generation, const v1::StreamOptions& options,
             std::optional<Clock::time_point> deadline) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      outbox_ = std::make_unique<Outbox>(generation, options);
    }
    Attach(std::move(generation), deadline);
  }

  void SendOnly(std::vector<v1::GenerateImagesResponse> messages) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      only_.assign(std::make_move_iterator(messages.begin()),
                   std::make_move_iterator(messages.end()));
      only_these_ = true;
    }
    Pump();
  }

 private:
  void Pump() override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (busy_ || dropping_ || finished_) {
      return;
    }
    std::optional<absl::Status> end = forced_end_;
    if (!end.has_value()) {
      if (auto message = Next(&end)) {
        if (end.has_value()) {
          finished_ = true;
          NoteEnd(*end);
        }
        NoteFirstPreview(*message);
        buffer_ = encode_(*std::move(message));
        bytes_sent_ += buffer_.Length();
        busy_ = true;
        write_began_ = Clock::now();
        WatchForSlowness();
        grpc::WriteOptions options;
        if (outbox_ != nullptr && outbox_->more()) {
          options.set_buffer_hint();
        }
        lock.unlock();
        if (end.has_value()) {
          reactor_->StartWriteAndFinish(&buffer_, options, ToGrpc(*end));
        } else {
          reactor_->StartWrite(&buffer_, options);
        }
        return;
      }
    }
    if (end.has_value()) {
      finished_ = true;
      NoteEnd(*end);
      lock.unlock();
      reactor_->Finish(ToGrpc(*end));
    }
  }

  std::optional<v1::GenerateImagesResponse> Next(std::optional<absl::Status>* end) {
    if (outbox_ != nullptr) {
      auto message = outbox_->Next();
      *end = outbox_->end();
      return message;
    }
    if (!only_.empty()) {
      auto message = std::move(only_.front());
      only_.pop_front();
      return message;
    }
    if (only_these_) {
      *end = absl::OkStatus();
    }
    return std::nullopt;
  }

  // Under mutex_.
  void NoteFirstPreview(const v1::GenerateImagesResponse& message) {
    if (message.has_preview() && !preview_sent_) {
      preview_sent_ = true;
      services_.metrics.FirstPreview(model(), Clock::now() - began());
    }
  }

  void WriteDone(bool ok) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      busy_ = false;
    }
    if (!ok) {
      ClientGone();
    } else {
      Pump();
    }
  }

  // One timer a stream, set again as long as it lives. Under mutex_.
  void WatchForSlowness() {
    if (slow_timer_ == 0) {
      slow_timer_ = services_.timer.At(write_began_ + ToClock(services_.slow_client_timeout),
                                       [weak = weak_from_this()] {
                                         if (auto alive = weak.lock()) {
                                           static_cast<StreamCall&>(*alive).CheckSlowness();
                                         }
                                       });
    }
  }

  void CheckSlowness() {
    std::unique_lock<std::mutex> lock(mutex_);
    slow_timer_ = 0;
    if (done_ || !busy_) {
      return;
    }
    if (Clock::now() - write_began_ < ToClock(services_.slow_client_timeout)) {
      WatchForSlowness();
      return;
    }
    dropping_ = true;
    const std::string id = generation_ == nullptr ? "" : generation_->spec().request_id;
    lock.unlock();
    LogWarning("client dropped: it does not read", {{"request_id", id}});
    services_.metrics.slow_clients().Increment();
    context_
        ->TryCancel();  // Still there: nothing finishes the call, nor is it done, while dropping_.
    lock.lock();
    dropping_ = false;
    lock.unlock();
    dropped_.notify_all();
    Pump();
  }

  void StreamDone() {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      done_ = true;
      services_.timer.Cancel(slow_timer_);
      dropped_.wait(lock, [this] { return !dropping_; });  // A call to TryCancel, no more.
    }
    services_.metrics.streams_open().Decrement();
    Done();
  }

  grpc::CallbackServerContext* const context_;
  const EncodeMessage encode_;
  Writer* reactor_ = nullptr;
  std::unique_ptr<Outbox> outbox_;
  std::deque<v1::GenerateImagesResponse> only_;
  bool only_these_ = false;
  bool busy_ = false;  // A write is under way; the last one until the call is done.
  bool preview_sent_ = false;
  bool dropping_ = false;
  bool done_ = false;
  std::condition_variable dropped_;
  grpc::ByteBuffer buffer_;
  Clock::time_point write_began_;
  Timer::Id slow_timer_ = 0;
};

}  // namespace

std::shared_ptr<Stream> MakeStream(const CallServices& services, const char* method,
                                   grpc::CallbackServerContext* context, EncodeMessage encode) {
  auto stream = std::make_shared<StreamCall>(services, method, context, std::move(encode));
  stream->Open();
  return stream;
}

}  // namespace patchflow

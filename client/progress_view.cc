#include "client/progress_view.h"

#include <algorithm>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace patchflow {
namespace {

constexpr absl::Duration kLinePeriod = absl::Seconds(1);
constexpr absl::Duration kBarPeriod = absl::Milliseconds(50);
constexpr int kMaxBarColumns = 30;
constexpr int kMinBarColumns = 5;

std::string SecondsText(const google::protobuf::Duration& duration) {
  return absl::StrFormat("%.1f s",
                         static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos());
}

std::string AcceptedText(const v1::Accepted& accepted) {
  std::string text = accepted.queue_position() > 0
                         ? absl::StrCat("accepted, ", accepted.queue_position(), " before it")
                         : "accepted";
  if (accepted.has_estimated_wait())
    absl::StrAppend(&text, ", about ", SecondsText(accepted.estimated_wait()), " to wait");
  if (accepted.has_estimated_run())
    absl::StrAppend(&text, ", about ", SecondsText(accepted.estimated_run()), " to run");
  return text;
}

class QuietView : public ProgressView {
 public:
  explicit QuietView(Console& console) : console_(console) {}
  void Accepted(const v1::Accepted&) override {}
  void Progress(const v1::Progress&) override {}
  void Note(const std::string& text) override { console_.err << text << std::endl; }
  void Clear() override {}

 private:
  Console& console_;
};

class LineView : public ProgressView {
 public:
  explicit LineView(Console& console) : console_(console) {}

  void Accepted(const v1::Accepted& accepted) override {
    num_images_ = accepted.effective().count();
    Note(AcceptedText(accepted));
  }

  void Progress(const v1::Progress& progress) override {
    const bool changed = progress.state() != last_.state() ||
                         progress.attempt() != last_.attempt() ||
                         progress.queue_position() != last_.queue_position();
    const absl::Time now = absl::Now();
    if (!changed && now - written_ < kLinePeriod) return;
    written_ = now;
    last_ = progress;
    Note(ProgressText(progress, num_images_));
  }

  void Note(const std::string& text) override { console_.err << text << std::endl; }
  void Clear() override {}

 private:
  Console& console_;
  int num_images_ = 1;
  absl::Time written_ = absl::InfinitePast();
  v1::Progress last_;
};

class BarView : public ProgressView {
 public:
  explicit BarView(Console& console) : console_(console) {}

  void Accepted(const v1::Accepted& accepted) override {
    num_images_ = accepted.effective().count();
    Draw(AcceptedText(accepted));
  }

  void Progress(const v1::Progress& progress) override {
    const absl::Time now = absl::Now();
    if (now - drawn_ < kBarPeriod && progress.step() < progress.total_steps()) return;
    drawn_ = now;
    Draw(ProgressBarText(progress, num_images_, console_.columns - 1));
  }

  void Note(const std::string& text) override {
    Clear();
    console_.err << text << std::endl;
  }

  void Clear() override {
    if (shown_) console_.err << "\r\x1B[K" << std::flush;
    shown_ = false;
  }

 private:
  void Draw(const std::string& text) {
    console_.err << "\r" << text.substr(0, static_cast<size_t>(std::max(0, console_.columns - 1)))
                 << "\x1B[K" << std::flush;
    shown_ = true;
  }

  Console& console_;
  int num_images_ = 1;
  bool shown_ = false;
  absl::Time drawn_ = absl::InfinitePast();
};

}  // namespace

std::string ProgressText(const v1::Progress& progress, int num_images) {
  std::string text;
  if (progress.state() == v1::STATE_QUEUED) {
    text = progress.queue_position() > 0
               ? absl::StrCat("queued, ", progress.queue_position(), " before it")
               : "queued, next";
  } else {
    text = absl::StrCat("step ", progress.step(), " of ", progress.total_steps());
    if (num_images > 1) {
      absl::StrAppend(&text, ", image ", std::min(progress.images_done() + 1, num_images), " of ",
                      num_images);
    }
  }
  if (progress.has_elapsed()) absl::StrAppend(&text, ", ", SecondsText(progress.elapsed()));
  if (progress.has_eta()) absl::StrAppend(&text, ", eta ", SecondsText(progress.eta()));
  if (progress.attempt() > 1) absl::StrAppend(&text, ", attempt ", progress.attempt());
  return text;
}

std::string ProgressBarText(const v1::Progress& progress, int num_images, int columns) {
  std::string text = ProgressText(progress, num_images);
  const int room = std::min(kMaxBarColumns, columns - static_cast<int>(text.size()) - 3);
  if (progress.state() == v1::STATE_QUEUED || room < kMinBarColumns) {
    return text.substr(0, static_cast<size_t>(std::max(0, columns)));
  }
  const int total = std::max(1, progress.total_steps());
  const auto filled = static_cast<size_t>(room * std::clamp(progress.step(), 0, total) / total);
  return absl::StrCat("[", std::string(filled, '#'),
                      std::string(static_cast<size_t>(room) - filled, '.'), "] ", text);
}

std::unique_ptr<ProgressView> MakeProgressView(Console& console) {
  if (console.err_is_terminal) return std::make_unique<BarView>(console);
  return std::make_unique<LineView>(console);
}

std::unique_ptr<ProgressView> MakeQuietView(Console& console) {
  return std::make_unique<QuietView>(console);
}

}  // namespace patchflow

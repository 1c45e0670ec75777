#include "client/caption_run.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/receive.h"
#include "client/server_error.h"
#include "client/status_line.h"

namespace patchflow {
namespace {

constexpr absl::Duration kBarPeriod = absl::Milliseconds(100);
constexpr absl::Duration kLinePeriod = absl::Seconds(5);
constexpr int kPasses = 2;
constexpr int kMinFailuresInARow = 16;

// Thread-safe.
class CaptionProgress {
 public:
  CaptionProgress(const CaptionRun& run, Console& console)
      : console_(console),
        json_(run.display.json),
        quiet_(run.display.quiet),
        present_(run.plan.present),
        total_(run.plan.present + static_cast<int>(run.plan.missing.size())),
        line_(console) {}

  // One try has ended; `failed`: how many have failed as it stands.
  void Tried(int number, const GenerationResult& result, int failed) {
    const std::lock_guard lock(mutex_);
    if (result.status.ok()) ++drawn_;
    if (json_) {
      nlohmann::json json = ResultJson(result);
      json["number"] = number;
      console_.out << JsonLine(json) << std::endl;
    }
    const absl::Time now = absl::Now();
    if (quiet_ || now - shown_at_ < (console_.err_is_terminal ? kBarPeriod : kLinePeriod)) return;
    shown_at_ = now;
    Show(failed);
  }

  void Note(const std::string& text) {
    const std::lock_guard lock(mutex_);
    line_.Clear();
    console_.err << Printable(text) << std::endl;
  }

  void End(int failed) {
    const std::lock_guard lock(mutex_);
    if (!quiet_) Show(failed);
    line_.Keep();
  }

  int drawn() const {
    const std::lock_guard lock(mutex_);
    return drawn_;
  }

 private:
  void Show(int failed) {
    line_.Show(CaptionProgressText(drawn_, failed, present_, total_, absl::Now() - start_));
  }

  Console& console_;
  const bool json_;
  const bool quiet_;
  const int present_;
  const int total_;
  const absl::Time start_ = absl::Now();
  mutable std::mutex mutex_;
  int drawn_ = 0;
  absl::Time shown_at_ = absl::Now();
  StatusLine line_;
};

// Of one image among many: says which one a note is about, and leaves out its steps.
class ImageView : public ProgressView {
 public:
  ImageView(int number, CaptionProgress& progress) : number_(number), progress_(progress) {}
  void Accepted(const v1::Accepted&) override {}
  void Progress(const v1::Progress&) override {}
  void Note(const std::string& text) override {
    progress_.Note(absl::StrCat("image ", number_, ": ", text));
  }
  void Clear() override {}

 private:
  const int number_;
  CaptionProgress& progress_;
};

class CaptionRunner {
 public:
  CaptionRunner(const CaptionRun& run, Console& console, Interrupt& interrupt)
      : run_(run), console_(console), interrupt_(interrupt), progress_(run, console) {}

  int Run() {
    const absl::Time start = absl::Now();
    std::vector<int> numbers = run_.plan.missing;
    for (int pass = 1; !numbers.empty(); ++pass) {
      DrawAll(numbers);
      numbers = pass < kPasses ? TakeThoseToTryAgain() : std::vector<int>{};
      if (!numbers.empty()) progress_.Note(absl::StrCat("trying again: ", numbers.size()));
    }
    progress_.End(static_cast<int>(failures_.size()));
    return Report(absl::Now() - start);
  }

 private:
  // Each thread has an interrupt of its own, as an interrupt has one guard at a time.
  void DrawAll(const std::vector<int>& numbers) {
    const size_t num_threads =
        std::min(numbers.size(), static_cast<size_t>(std::max(1, run_.in_flight)));
    std::vector<Interrupt> interrupts(num_threads);
    const Interrupt::Guard guard(interrupt_, [&interrupts] {
      for (Interrupt& each : interrupts) each.Trigger();
    });
    std::atomic<size_t> next = 0;
    std::vector<std::jthread> threads;
    threads.reserve(num_threads);
    for (Interrupt& own : interrupts) {
      threads.emplace_back([&, this] {
        for (size_t i = next++; i < numbers.size() && !own.triggered() && !gave_up_; i = next++) {
          Draw(numbers[i], own);
        }
      });
    }
  }

  void Draw(int number, Interrupt& interrupt) {
    const std::string& caption = run_.plan.captions[static_cast<size_t>(number)];
    GenerateOptions options = run_.generate;
    options.seed = run_.plan.first_seed + static_cast<uint64_t>(number);
    const auto request = BuildRequest(options, caption, run_.connection.timeout());
    GenerationResult result;
    if (request.ok()) {
      ImageView view(number, progress_);
      result = Receive({run_.connection, console_, interrupt, view, /*image_lines=*/false},
                       OpenGenerate(run_.connection, *request),
                       {.request_id = request->request_id(),
                        .content = StreamContent::kImages,
                        .out = run_.plan.out,
                        .prompt_index = number});
    } else {
      result.status = request.status();
    }
    result.prompt = caption;
    if (!result.status.ok() && interrupt.triggered()) return;
    progress_.Tried(number, result, Count(number, result.status));
  }

  // Keeps the outcome; returns how many images have failed.
  int Count(int number, const absl::Status& status) {
    const std::lock_guard lock(mutex_);
    in_a_row_ = status.ok() ? 0 : in_a_row_ + 1;
    if (in_a_row_ >= std::max(kMinFailuresInARow, 2 * run_.in_flight)) gave_up_ = true;
    if (!status.ok()) failures_[number] = status;
    return static_cast<int>(failures_.size());
  }

  // The failures that another try may mend; they are no longer failures.
  std::vector<int> TakeThoseToTryAgain() {
    std::vector<int> numbers;
    if (gave_up_ || interrupt_.triggered()) return numbers;
    for (auto failure = failures_.begin(); failure != failures_.end();) {
      if (ExitCodeOf(failure->second) == kExitRefused) {
        ++failure;
        continue;
      }
      numbers.push_back(failure->first);
      failure = failures_.erase(failure);
    }
    return numbers;
  }

  int Report(absl::Duration elapsed) const {
    for (const auto& [number, status] : failures_) {
      const std::string& caption = run_.plan.captions[static_cast<size_t>(number)];
      console_.err << Printable(absl::StrCat("failed: ", number, " \"", caption,
                                             "\": ", RenderError(status)))
                   << std::endl;
    }
    if (!run_.display.json) {
      console_.out << absl::StrFormat("%d drawn, %d there before, %d failed, %s", progress_.drawn(),
                                      run_.plan.present, failures_.size(),
                                      absl::FormatDuration(absl::Trunc(elapsed, absl::Seconds(1))))
                   << std::endl;
    }
    if (interrupt_.triggered()) {
      return Fail(console_, kExitCancelled, "interrupted; the same command goes on from here");
    }
    if (failures_.empty()) return kExitOk;
    const ExitCode code = ExitCodeOf(failures_.begin()->second);
    if (!gave_up_) return code;
    return Fail(console_, code,
                absl::StrCat("gave up: the last ", in_a_row_,
                             " images failed; the same command goes on from here"));
  }

  const CaptionRun& run_;
  Console& console_;
  Interrupt& interrupt_;
  CaptionProgress progress_;
  std::atomic<bool> gave_up_ = false;
  std::mutex mutex_;
  int in_a_row_ = 0;
  std::map<int, absl::Status> failures_;
};

}  // namespace

std::string CaptionProgressText(int drawn, int failed, int present, int total,
                                absl::Duration elapsed) {
  std::string text = absl::StrCat(present + drawn, " of ", total);
  if (failed > 0) absl::StrAppend(&text, ", ", failed, " failed");
  if (drawn == 0 || elapsed <= absl::ZeroDuration()) return text;
  absl::StrAppendFormat(&text, ", %.2f images/s", drawn / absl::ToDoubleSeconds(elapsed));
  const int left = total - present - drawn - failed;
  if (left > 0) {
    absl::StrAppend(&text, ", ",
                    absl::FormatDuration(absl::Ceil(elapsed / drawn * left, absl::Seconds(1))),
                    " left");
  }
  return text;
}

int RunCaptions(const CaptionRun& run, Console& console, Interrupt& interrupt) {
  if (!run.plan.missing.empty()) {
    if (absl::Status status = WriteFile(run.plan.record_path, run.plan.record); !status.ok()) {
      return Fail(console, kExitOther, std::string(status.message()));
    }
  }
  return CaptionRunner(run, console, interrupt).Run();
}

}  // namespace patchflow

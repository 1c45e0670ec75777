#include "worker/batch_run.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "engine/image/metadata.h"
#include "worker/previewer.h"

namespace patchflow {
namespace {

JobPhase JobPhaseOf(Phase phase) {
  switch (phase) {
    case Phase::kText:
      return JobPhase::kText;
    case Phase::kDenoise:
      return JobPhase::kDenoise;
    case Phase::kDecode:
      return JobPhase::kDecode;
  }
  return JobPhase::kText;
}

// Whether to begin a step of a call's pass; empty without an agreement.
std::function<bool(int)> AgreedFor(const BatchCall& call, int pass) {
  if (call.agreement == nullptr) return nullptr;
  return [agreement = call.agreement, pass](int step) {
    return agreement->Continue(StepOfJob(pass, step));
  };
}

// Where a picture comes from, which a preview tells too; nothing if its image doesn't.
Metadata MarkOf(const Metadata& metadata) {
  Metadata mark;
  std::copy_if(metadata.begin(), metadata.end(), std::back_inserter(mark),
               [](const auto& pair) { return pair.first == kDigitalSourceType; });
  return mark;
}

// Stops at `stop`, and when every call was given up.
class StopOfAll {
 public:
  StopOfAll(const std::vector<BatchCall>& calls, const std::stop_token& stop)
      : left_(calls.size()), outside_(stop, [this] { source_.request_stop(); }) {
    for (const BatchCall& call : calls) {
      callers_.push_back(std::make_unique<Callback>(call.stop, [this] {
        if (--left_ == 0) source_.request_stop();
      }));
    }
  }
  std::stop_token token() const { return source_.get_token(); }

 private:
  using Callback = std::stop_callback<std::function<void()>>;
  std::stop_source source_;
  std::atomic<size_t> left_;
  const Callback outside_;
  std::vector<std::unique_ptr<Callback>> callers_;
};

struct MadeImage {
  JobImage asked;
  Generated made;
};

// Images of one call, encoded and handed over one after the other: on a thread of its own, for
// which the last copy waits, or, deferred, by whoever asks what came of it.
using Delivery = std::shared_future<absl::Status>;

Delivery Deliver(Encoder& encoder, std::vector<MadeImage> images, const BatchCall& call,
                 std::launch when) {
  return std::async(when, [&encoder, images = std::move(images), &events = *call.events,
                           id = call.job.request_id]() mutable {
    for (MadeImage& image : images) {
      absl::Status status = encoder.Begin(image.asked, std::move(image.made), events, id)->Wait();
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  });
}

// One by one, each with the figures of their pass.
std::vector<Generated> EachOf(Generated made) {
  std::vector<Image> images = {*std::exchange(made.image, std::nullopt)};
  std::move(made.beside.begin(), made.beside.end(), std::back_inserter(images));
  made.beside.clear();
  std::vector<Generated> each(images.size(), made);
  for (size_t n = 0; n < images.size(); ++n) each[n].image = std::move(images[n]);
  return each;
}

class BatchRun {
 public:
  BatchRun(RankGroup& group, const Batch& batch, Encoder& encoder,
           std::function<void()> await_earlier);
  std::vector<CallEnd> Run(const std::stop_token& stop);

 private:
  struct Standing {
    const BatchCall* call;
    absl::Status status;
    Delivery delivery;  // Of the pass before.
  };
  struct Row {
    Standing* of;
    const JobImage* image;
    JobEvents& events() const { return *of->call->events; }
  };
  using Rows = std::span<const Row>;

  PreviewRequest PreviewOf(const Row& row);
  ImageRequest RequestOf(Rows rows);
  absl::StatusOr<Generated> Make(Rows rows, int pass, const std::stop_token& stop);
  // False if the batch is to end here.
  bool DeliverAll(Rows rows, Generated made, std::launch when);
  bool DeliverTo(Standing& standing, std::vector<MadeImage> images, std::launch when);

  RankGroup& group_;
  const int batch_size_;
  Encoder& encoder_;
  std::function<void()> await_earlier_;  // Until it was called.
  std::vector<Standing> calls_;
  std::vector<Row> rows_;
  std::optional<Previewer> previewer_;  // From the first image on that asks for previews.
};

BatchRun::BatchRun(RankGroup& group, const Batch& batch, Encoder& encoder,
                   std::function<void()> await_earlier)
    : group_(group),
      batch_size_(batch.batch_size()),
      encoder_(encoder),
      await_earlier_(std::move(await_earlier)) {
  for (const BatchCall& call : batch.calls()) calls_.push_back({&call, {}, {}});
  for (Standing& standing : calls_) {
    for (const JobImage& image : standing.call->job.images) rows_.push_back({&standing, &image});
  }
}

PreviewRequest BatchRun::PreviewOf(const Row& row) {
  PreviewRequest preview = row.image->request.preview;
  preview.show = nullptr;
  if (preview.every_steps > 0) {
    if (!previewer_.has_value()) previewer_.emplace();
    preview.show = previewer_->Of(row.events(), row.image->index,
                                  MarkOf(row.image->encode.metadata), row.of->call->job.request_id);
  }
  return preview;
}

ImageRequest BatchRun::RequestOf(Rows rows) {
  ImageRequest request = rows.front().image->request;
  request.batch_size = batch_size_;
  request.preview = PreviewOf(rows.front());
  for (const Row& row : rows.subspan(1)) {
    const ImageRequest& own = row.image->request;
    request.beside.push_back({own.prompt, own.negative_prompt, own.seed, PreviewOf(row)});
  }
  return request;
}

absl::StatusOr<Generated> BatchRun::Make(Rows rows, int pass, const std::stop_token& stop) {
  std::vector<RankTrace> traces;
  absl::StatusOr<Generated> made = group_.Run(
      RequestOf(rows), stop,
      [&](Phase phase, int steps_done) {
        for (const Row& row : rows) {
          row.events().OnPhase(row.image->index, JobPhaseOf(phase), steps_done);
        }
      },
      &traces, AgreedFor(*rows.front().of->call, pass));
  if (previewer_.has_value()) previewer_->Finish();
  for (const Row& row : rows) row.events().OnTrace(row.image->index, traces);
  return made;
}

bool BatchRun::DeliverTo(Standing& standing, std::vector<MadeImage> images, std::launch when) {
  if (calls_.size() > 1 && standing.call->stop.stop_requested()) {
    standing.status = WithEngineReason(absl::CancelledError("cancelled"), "CANCELLED");
    return true;
  }
  if (standing.delivery.valid()) {
    standing.status = std::exchange(standing.delivery, {}).get();
    if (!standing.status.ok()) return false;
  }
  if (const auto await_earlier = std::exchange(await_earlier_, nullptr)) await_earlier();
  for (const MadeImage& image : images) {
    standing.call->events->OnPhase(image.asked.index, JobPhase::kEncode, image.asked.request.steps);
  }
  standing.delivery = Deliver(encoder_, std::move(images), *standing.call, when);
  return true;
}

bool BatchRun::DeliverAll(Rows rows, Generated made, std::launch when) {
  if (!made.image.has_value()) return true;
  const std::vector<absl::Status> faults = std::exchange(made.faults, {});
  std::vector<Generated> each = EachOf(std::move(made));
  bool goes_on = faults.empty();
  for (Standing& standing : calls_) {
    std::vector<MadeImage> images;
    absl::Status fault;
    for (size_t n = 0; n < rows.size(); ++n) {
      if (rows[n].of != &standing) continue;
      if (!faults.empty() && !faults[n].ok()) {
        fault = faults[n];
      } else {
        images.push_back({*rows[n].image, std::move(each[n])});
      }
    }
    if (!images.empty()) goes_on = DeliverTo(standing, std::move(images), when) && goes_on;
    if (!fault.ok()) standing.status = fault;
  }
  return goes_on;
}

std::vector<CallEnd> BatchRun::Run(const std::stop_token& stop) {
  const auto rows_each = static_cast<size_t>(batch_size_);
  bool goes_on = true;
  for (size_t first = 0, pass = 0; goes_on && first < rows_.size(); first += rows_each, ++pass) {
    const Rows rows = Rows(rows_).subspan(first, std::min(rows_each, rows_.size() - first));
    absl::StatusOr<Generated> made = Make(rows, static_cast<int>(pass), stop);
    if (made.ok()) {
      const bool last = first + rows_each >= rows_.size();
      goes_on =
          DeliverAll(rows, *std::move(made), last ? std::launch::deferred : std::launch::async);
      continue;
    }
    for (Standing& standing : calls_) standing.status = made.status();
    goes_on = false;
  }
  std::vector<CallEnd> ends;
  for (const Standing& standing : calls_) {
    ends.push_back({standing.status, nullptr});
    if (!standing.delivery.valid()) continue;
    ends.back().last_images = [delivery = standing.delivery] { return delivery.get(); };
  }
  return ends;
}

}  // namespace

std::vector<CallEnd> RunBatch(RankGroup& group, const Batch& batch, const std::stop_token& stop,
                              Encoder& encoder, const std::function<void()>& await_earlier) {
  const StopOfAll all(batch.calls(), stop);
  const bool agrees = batch.calls().front().agreement != nullptr;
  return BatchRun(group, batch, encoder, await_earlier)
      .Run(agrees ? std::stop_token() : all.token());
}

}  // namespace patchflow

#include "worker/rank_record.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

class RecordedWork final : public Pending::Work {
 public:
  RecordedWork(Pending inner, RankRecord& record, const char* operation)
      : inner_(std::move(inner)), record_(record), operation_(operation) {}
  void Wait() override {
    record_.BeginWait(operation_);
    inner_.Wait();
    record_.EndWait();
  }

 private:
  Pending inner_;
  RankRecord& record_;
  const char* const operation_;
};

class RecordingCommunicator final : public Communicator {
 public:
  RecordingCommunicator(std::unique_ptr<Communicator> inner, RankRecord& record)
      : inner_(std::move(inner)), record_(record) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  Pending AllReduceSum(const Tensor& t) override {
    return Recorded("all_reduce_sum", [&] { return inner_->AllReduceSum(t); });
  }
  Pending AllGather(const Tensor& in, const Tensor& out) override {
    return Recorded("all_gather", [&] { return inner_->AllGather(in, out); });
  }
  Pending AllToAll(const Tensor& in, const Tensor& out) override {
    return Recorded("all_to_all", [&] { return inner_->AllToAll(in, out); });
  }
  Pending Send(const Tensor& t, int peer) override {
    return Recorded("send", [&] { return inner_->Send(t, peer); });
  }
  Pending Recv(const Tensor& t, int peer) override {
    return Recorded("recv", [&] { return inner_->Recv(t, peer); });
  }
  Pending Grouped(const std::vector<Transfer>& transfers) override {
    return Recorded("grouped", [&] { return inner_->Grouped(transfers); });
  }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  template <typename Issue>
  Pending Recorded(const char* operation, const Issue& issue) {
    record_.Issue(operation);
    Pending pending = issue();
    record_.EndWait();
    return Pending(std::make_unique<RecordedWork>(std::move(pending), record_, operation));
  }

  const std::unique_ptr<Communicator> inner_;
  RankRecord& record_;
};

class RecordedMonitor final : public RequestMonitor {
 public:
  RecordedMonitor(RequestMonitor& inner, RankRecord& record) : inner_(inner), record_(record) {}
  void Enter(Phase phase) override {
    record_.Enter(NameOf(phase));
    inner_.Enter(phase);
  }
  void StepsDone(int steps) override {
    record_.StepsDone(steps);
    inner_.StepsDone(steps);
  }
  bool Continue(int step) override { return inner_.Continue(step); }

 private:
  RequestMonitor& inner_;
  RankRecord& record_;
};

class RecordedEngine final : public Engine {
 public:
  RecordedEngine(std::unique_ptr<Engine> engine, std::shared_ptr<RankRecord> record)
      : record_(std::move(record)), engine_(std::move(engine)) {}

  const ModelDescription& description() const override { return engine_->description(); }
  const std::vector<LoadedComponent>& components() const override { return engine_->components(); }

  absl::StatusOr<Generated> Generate(const ImageRequest& request,
                                     RequestMonitor& monitor) override {
    record_->BeginImage(request);
    RecordedMonitor recorded(monitor, *record_);
    absl::StatusOr<Generated> made = engine_->Generate(request, recorded);
    record_->End(made.status());
    return made;
  }

 private:
  const std::shared_ptr<RankRecord> record_;  // Outlives the engine.
  const std::unique_ptr<Engine> engine_;
};

}  // namespace

RankRecord::RankRecord(BlackBox& box, int rank, int warm_up_images)
    : box_(box), rank_(rank), warm_up_images_(warm_up_images) {
  box_.WatchThread(absl::StrCat("rank ", rank));
  Enter("load");
}

void RankRecord::Write() {
  box_.Keep(BlackBox::kFirstRankLine + rank_,
            absl::StrCat("rank=", rank_, " phase=", phase_, " step=", steps_done_, "/", steps_,
                         " collectives=", collectives_, " in=", in_, " image=", images_));
}

void RankRecord::Enter(const char* phase) {
  phase_ = phase;
  Write();
  box_.Note(absl::StrCat("rank ", rank_, ": ", phase));
}

void RankRecord::BeginImage(const ImageRequest& request) {
  images_ = warm_up_images_ > 0 ? 1 : images_ + 1;
  --warm_up_images_;
  steps_done_ = 0;
  steps_ = request.steps;
  if (rank_ != 0) return;
  box_.Note(absl::StrCat(images_ == 1 ? "warm-up: " : "image: ", request.width_px, "x",
                         request.height_px, ", ", request.steps, " steps, guidance ",
                         request.guidance_scale, ", ", request.scheduler, ", seed ", request.seed));
}

void RankRecord::StepsDone(int steps) {
  steps_done_ = steps;
  Write();
}

void RankRecord::Issue(const char* operation) {
  ++collectives_;
  BeginWait(operation);
}

void RankRecord::BeginWait(const char* operation) {
  in_ = operation;
  Write();
}

void RankRecord::EndWait() {
  in_ = "-";
  Write();
}

void RankRecord::End(const absl::Status& status) {
  phase_ = status.ok() ? "idle" : "ended";
  Write();
  if (status.ok() || absl::IsCancelled(status)) return;
  box_.Note(absl::StrCat("rank ", rank_, " failed: ", absl::StatusCodeToString(status.code()), " ",
                         EngineReasonOf(status), ": ", status.message()));
}

std::unique_ptr<Communicator> RecordingWorld::Split(int color, std::string_view name) {
  record_.Issue("split");
  auto communicator = inner_.Split(color, name);
  record_.EndWait();
  if (communicator == nullptr) return nullptr;
  return std::make_unique<RecordingCommunicator>(std::move(communicator), record_);
}

std::unique_ptr<Engine> RecordEngine(std::unique_ptr<Engine> engine,
                                     std::shared_ptr<RankRecord> record) {
  return std::make_unique<RecordedEngine>(std::move(engine), std::move(record));
}

}  // namespace patchflow

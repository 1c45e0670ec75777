#include "worker/watched_engine.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/status_of.h"
#include "worker/placed_engine.h"
#include "worker/rank_record.h"

namespace patchflow {
namespace {

// An engine and the worlds between it and the group's, which outlive it.
class WatchedEngine final : public Engine {
 public:
  WatchedEngine(std::vector<std::unique_ptr<World>> worlds, std::unique_ptr<Engine> engine)
      : worlds_(std::move(worlds)), engine_(std::move(engine)) {}
  const ModelDescription& description() const override { return engine_->description(); }
  const std::vector<LoadedComponent>& components() const override { return engine_->components(); }
  absl::StatusOr<Generated> Generate(const ImageRequest& request,
                                     RequestMonitor& monitor) override {
    return engine_->Generate(request, monitor);
  }

 private:
  const std::vector<std::unique_ptr<World>> worlds_;
  const std::unique_ptr<Engine> engine_;
};

absl::StatusOr<std::unique_ptr<Engine>> Load(const RankWatch& watch, const EngineOptions& options,
                                             const Layout& layout, const TransformerConfig& model,
                                             World& world,
                                             const std::shared_ptr<RankRecord>& record) {
  std::vector<std::unique_ptr<World>> worlds;
  World* outer = &world;
  std::shared_ptr<RankFaults> faults;
  if (record != nullptr) {
    worlds.push_back(std::make_unique<RecordingWorld>(*outer, *record));
    outer = worlds.back().get();
  }
  if (watch.faults != nullptr) {
    faults = std::make_shared<RankFaults>(*watch.faults, world.rank(), options.device,
                                          watch.warm_up_images);
    worlds.push_back(std::make_unique<FaultyWorld>(*outer, faults));
    outer = worlds.back().get();
  }
  absl::StatusOr<std::unique_ptr<Engine>> engine = LoadPlacedEngine(options, layout, model, *outer);
  if (!engine.ok()) return engine;
  if (faults != nullptr) faults->At(FaultPlace::kLoad);
  std::unique_ptr<Engine> watched = *std::move(engine);
  if (record != nullptr) {
    record->Enter("loaded");
    watched = RecordEngine(std::move(watched), record);
  }
  if (faults != nullptr) watched = MakeFaulty(std::move(watched), faults);
  return std::make_unique<WatchedEngine>(std::move(worlds), std::move(watched));
}

}  // namespace

void RankWatch::OnFault(const std::string& why) const {
  if (black_box != nullptr) black_box->Snapshot(why);
}

std::function<void()> RankWatch::BeforeEncode() const {
  return [*this] {
    if (black_box != nullptr) {
      black_box->WatchThread("encode");
      black_box->Note("encode: begins");
    }
    if (faults != nullptr) faults->At(FaultPlace::kEncode, 0, at::kCPU);
  };
}

absl::StatusOr<RankWatch> StartWatch(const WorkerFlags& flags) {
  RankWatch watch;
  if (!flags.black_box.empty()) {
    absl::StatusOr<std::unique_ptr<BlackBox>> box = BlackBox::Create(flags.black_box);
    if (!box.ok()) return box.status();
    watch.black_box = box->release();
    watch.black_box->CatchFaults();
    watch.black_box->Keep(
        0, absl::StrCat("model=", flags.model, " device=", flags.device, " dtype=", flags.dtype,
                        " ranks=", flags.ranks, " layout=", flags.layout));
  }
  if (!flags.fault_orders.empty()) watch.faults = new FaultInjector(flags.fault_orders);
  return watch;
}

absl::StatusOr<std::unique_ptr<Engine>> LoadWatchedEngine(const RankWatch& watch,
                                                          const EngineOptions& options,
                                                          const Layout& layout,
                                                          const TransformerConfig& model,
                                                          World& world) {
  std::shared_ptr<RankRecord> record;
  if (watch.black_box != nullptr) {
    record = std::make_shared<RankRecord>(*watch.black_box, world.rank(), watch.warm_up_images);
  }
  auto engine = StatusOrOfThrowing<std::unique_ptr<Engine>>(
      [&] { return Load(watch, options, layout, model, world, record); });
  if (!engine.ok() && record != nullptr) record->End(engine.status());
  return engine;
}

}  // namespace patchflow

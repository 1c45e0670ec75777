#include "worker/placed_engine.h"

#include <utility>

#include "engine/device.h"
#include "parallel/group.h"

namespace patchflow {
namespace {

class PlacedEngine final : public Engine {
 public:
  PlacedEngine(const Layout& layout, std::unique_ptr<GroupRank> place,
               std::unique_ptr<Engine> engine)
      : layout_(layout), place_(std::move(place)), engine_(std::move(engine)) {}

  const ModelDescription& description() const override { return engine_->description(); }
  const std::vector<LoadedComponent>& components() const override { return engine_->components(); }

  absl::StatusOr<Generated> Generate(const ImageRequest& request,
                                     RequestMonitor& monitor) override {
    const int token_px = description().size_multiple_px();
    const absl::Status tokens =
        CheckTokens(layout_, {.h = request.height_px / token_px, .w = request.width_px / token_px});
    if (!tokens.ok()) return WithEngineReason(tokens, "INVALID_REQUEST");
    return engine_->Generate(request, monitor);
  }

 private:
  const Layout layout_;
  const std::unique_ptr<GroupRank> place_;  // Outlives the engine.
  const std::unique_ptr<Engine> engine_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> LoadPlacedEngine(const EngineOptions& options,
                                                         const Layout& layout,
                                                         const TransformerConfig& model,
                                                         World& world) {
  const DeviceThread thread(DeviceThread::MakeStream(options.device));
  auto place = std::make_unique<GroupRank>(layout, world, model);
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Load(options, place->ports());
  if (!engine.ok()) return engine.status();
  return std::make_unique<PlacedEngine>(layout, std::move(place), *std::move(engine));
}

}  // namespace patchflow

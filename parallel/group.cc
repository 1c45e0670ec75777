#include "parallel/group.h"

#include "parallel/axes.h"
#include "parallel/methods.h"
#include "parallel/tensor_parallel.h"
#include "parallel/vae_decode.h"

namespace patchflow {

GroupRank::GroupRank(const Layout& layout, World& world, const TransformerConfig& model)
    : layout_(layout),
      blocks_(
          BlocksOf(layout, CoordinatesOf(DegreesOf(layout), world.rank()).stage, model.num_blocks)),
      mesh_(MakeMesh(layout, world)),
      tensor_sum_(MakePartialSum(mesh_)) {
  if (mesh_.world != nullptr && layout.shared_text) {
    text_sum_ = std::make_unique<AllReducePartialSum>(*mesh_.world);
  }
}

GroupRank::~GroupRank() = default;

EnginePorts GroupRank::ports() const {
  EnginePorts ports;
  ports.make_denoiser = [this](const Transformer& transformer) {
    return MakeDenoiser(transformer, layout_, mesh_);
  };
  ports.transformer_shard = {mesh_.here.tensor, mesh_.degrees.tensor};
  ports.transformer_sum = tensor_sum_.get();
  ports.blocks = blocks_;
  if (mesh_.world == nullptr) {
    return ports;
  }
  ports.shows_previews = mesh_.world->rank() == 0;
  if (text_sum_ != nullptr) {
    ports.text_shard = {mesh_.world->rank(), mesh_.world->size()};
    ports.text_sum = text_sum_.get();
  }
  ports.decode = [this](const VaeDecoder& decoder, const Tensor& latents,
                        const std::function<void()>& tile_done) {
    return DecodeTogether(*mesh_.world, decoder, latents, tile_done);
  };
  return ports;
}

}  // namespace patchflow

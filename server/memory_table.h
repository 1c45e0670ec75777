// How much memory each rank of a group needs, before anything is loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

// What the figures follow from: a diffusers directory of PixArt's kind.
struct ModelShape {
  int64_t text_elements = 0;            // Of the text encoder.
  std::vector<int64_t> block_elements;  // Of each block of the transformer.
  int64_t transformer_elements = 0;     // Of the transformer, blocks left out.
  int64_t decoder_elements = 0;         // Of the VAE, its encoder left out.
  int64_t width = 0;                    // Features of a token.
  int64_t token_px = 0;                 // A token is a square of so many pixels a side.
  int64_t decoder_channels = 0;         // Of the VAE, at full size.
  int64_t own_size_px = 0;              // The size that the model was made for, a side.
};
// Reads headers and config.json files. INVALID_ARGUMENT naming what is missing or of another kind.
absl::StatusOr<ModelShape> ReadModelShape(const std::string& directory);

// Degrees as in a layout's text: "pipefusion=2,patches=4". What is not there is 1.
struct LayoutDegrees {
  int64_t pipefusion = 1;
  int64_t patches = 1;
  int64_t distrifusion = 1;
  int64_t ulysses = 1;
  int64_t ring = 1;
  int64_t tensor = 1;
  int64_t guidance = 1;
  bool shared_text = false;
  std::vector<int64_t> blocks;  // Of each stage; empty: even, the first ones taking the rest.

  int64_t sequence() const { return distrifusion * ulysses * ring; }
  int64_t ranks() const { return pipefusion * sequence() * tensor * guidance; }
};
LayoutDegrees DegreesOf(const std::string& layout);

// Bytes.
struct RankMemory {
  int64_t weights = 0;
  int64_t caches = 0;  // Keys and values that stale methods keep from step to step.
  int64_t work = 0;    // Of a step or of decoding, whichever is more.

  int64_t total() const { return weights + caches + work; }
  friend bool operator==(const RankMemory&, const RankMemory&) = default;
};

// Of rank `rank` while images of this size are made, `batch_size` at once, with guidance; without
// what the process itself needs (on a GPU about 1.5 GiB, see memory_room.h). An estimate, within
// about 15 % of what was measured on H200 (README, layouts; bench/README, VAE):
//
//   weights  text, / ranks if shared + blocks of its stage / tensor + the rest of the transformer
//            + decoder
//   caches   2 * branches * tokens * width * blocks of its stage / tensor, of PipeFusion and
//            DistriFusion; shared by what else splits the tokens (ulysses, ring)
//   a step   12 * branches * tokens of the rank * width / tensor
//            both times the images that share a pass, which are there whether asked for or not
//   decoding slabs of 768 MiB + 2 tensors of decoder_channels, of the rank's share of the rows
//
// all times `element_bytes`, slabs excepted.
RankMemory MemoryOfRank(const ModelShape& shape, const LayoutDegrees& layout, int64_t rank,
                        int64_t width_px, int64_t height_px, int64_t element_bytes,
                        int64_t batch_size = 1);

}  // namespace patchflow

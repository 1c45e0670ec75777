// Where the memory of a decode goes: computed before, equal to what is then allocated.
//
// Let e be the bytes of an element, and take a resolution of h rows of W pixels. Its maps live in
// one storage (feature_map.h) of h W pitch e bytes, where pitch is the larger of the channels that
// come in and twice those that go out: a residual block holds its input and its inner map, and
// where it narrows, inner map and shortcut replace the input row by row. All resolutions of the up
// blocks share one storage, each at its end: an upsampler fills the larger map from the front, and
// its own input, at the back, is overwritten only behind the window that has read it. (With b of h
// rows done, the new map ends at S' (1 - b / h) before the end and the unread rows begin at most
// S (1 - (b + 1) / h) before it, which is less if S' >= S; pitches are widened where it is not.) So
//   peak = largest storage + output + one slab,
// and for Stable Diffusion's decoder (128, 256, 512, 512 channels) at 4096 px in 2-byte elements
//   rows   channels     pitch   storage
//    512   512 -> 512    1024   0.54 GB
//   1024   512 -> 512    1024   2.15 GB
//   2048   512 -> 256     512   4.29 GB
//   4096   256 -> 128     256   8.59 GB   the largest activation, and nothing beside it
//   output 0.10 GB, slab 0.81 GB: 9.5 GB in all. At 8192 px: 34.4 + 0.4 GB, and beside them the
//   middle block's result, 2.1 GB, or one slab.
// What is computed twice for it: edge rows of the map held here. Statistics are taken while rows
// are stored; normalised, activated and enlarged maps exist a slab at a time.
//
// The middle block runs before that storage is allocated, in one of its own, beside queries, keys,
// values and what attention takes.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/vae/decoder_layers.h"

namespace patchflow {

struct MemoryPlan {
  int64_t middle_elements = 0;   // Storage of the middle block.
  std::vector<int64_t> pitches;  // Of the up blocks' stages.
  int64_t storage_elements = 0;  // That these share.
  int64_t peak_bytes = 0;        // Output included, weights not.
};
struct MapSize {
  int64_t h = 0;
  int64_t width = 0;
};
// `latents`: what is held here of one image. workspace_bytes: of attention; slab_bytes: of the
// other passes.
MemoryPlan PlanMemory(const DecoderLayers& decoder, MapSize latents, int64_t element_bytes,
                      int64_t slab_bytes, int64_t workspace_bytes);

}  // namespace patchflow

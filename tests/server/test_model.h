// The model that the server's tests serve.
#pragma once

#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

inline v1::Model TestModel() {
  v1::Model model;
  model.set_name("shapes");
  model.set_ready(true);
  model.set_digest("d1");
  model.set_architecture("PixArtTransformer2DModel");
  model.set_dtype("float32");
  model.set_device("cpu");
  auto* defaults = model.mutable_defaults();
  defaults->set_width(256);
  defaults->set_height(256);
  defaults->set_steps(4);
  defaults->set_guidance_scale(4.5F);
  defaults->set_scheduler("dpm-solver++");
  auto* limits = model.mutable_limits();
  limits->set_min_size(16);
  limits->set_max_size(2048);
  limits->set_size_multiple(16);
  limits->set_max_pixels(1 << 20);
  limits->set_max_count(8);
  limits->set_max_steps(200);
  limits->set_max_guidance_scale(30);
  limits->set_max_prompt_bytes(8192);
  limits->set_max_prompt_tokens(64);
  for (const char* scheduler : {"dpm-solver++", "ddim", "euler"}) {
    model.add_schedulers(scheduler);
  }
  for (auto format : {v1::IMAGE_FORMAT_PNG, v1::IMAGE_FORMAT_JPEG, v1::IMAGE_FORMAT_WEBP,
                      v1::IMAGE_FORMAT_RAW_RGB8}) {
    model.add_formats(format);
  }
  return model;
}

}  // namespace patchflow

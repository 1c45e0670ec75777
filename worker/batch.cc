#include "worker/batch.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace patchflow {
namespace {

int ImagesOf(const Job& job) { return static_cast<int>(job.images.size()); }

auto ShapeOf(const ImageRequest& request) {
  return std::tie(request.width_px, request.height_px, request.steps, request.guidance_scale,
                  request.scheduler);
}

}  // namespace

bool SameShape(const ImageRequest& a, const ImageRequest& b) { return ShapeOf(a) == ShapeOf(b); }

Batch::Batch(BatchCall first, int batch_size, Clock::duration delay)
    : batch_size_(batch_size), deadline_(Clock::now() + delay), images_(ImagesOf(first.job)) {
  calls_.push_back(std::move(first));
}

bool Batch::Fits(const Job& job) const {
  const ImageRequest& shape = calls_.front().job.images.front().request;
  return images_ + ImagesOf(job) <= batch_size_ &&
         std::all_of(job.images.begin(), job.images.end(),
                     [&](const JobImage& image) { return SameShape(image.request, shape); });
}

void Batch::Add(BatchCall call) {
  images_ += ImagesOf(call.job);
  calls_.push_back(std::move(call));
}

}  // namespace patchflow

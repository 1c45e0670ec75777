#include <string>

#include "absl/strings/str_cat.h"
#include "server/sha256.h"
#include "tests/server/fake_worker.h"

namespace patchflow {

std::string FakeImage(const worker::v1::ExecuteRequest& request, int index,
                      const FakeWorkerOptions& options) {
  const v1::EffectiveParams& params = request.params();
  const std::string key = Sha256(absl::StrCat(
      request.prompt(), "|", request.negative_prompt(), "|",
      params.seed() + static_cast<uint64_t>(index), "|", params.width(), "x", params.height(), "|",
      static_cast<int>(params.format()), "|", options.plan_digest));
  const size_t size =
      params.format() == v1::IMAGE_FORMAT_RAW_RGB8
          ? size_t{3} * static_cast<size_t>(params.width()) * static_cast<size_t>(params.height())
          : options.image_bytes;
  std::string data;
  data.reserve(size + key.size());
  while (data.size() < size) {
    data += key;
  }
  data.resize(size);
  return data;
}

}  // namespace patchflow

#include "engine/image/deflate_strip.h"

#include <libdeflate.h>

#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/image/deflate_blocks.h"

namespace patchflow {
namespace {

// An empty stored block, without the three bits of its header and the padding after them: LEN and
// NLEN.
constexpr char kEmptyStored[] = {'\x00', '\x00', '\xFF', '\xFF'};

// Clears BFINAL of the last block and appends an empty stored block, which ends at a byte boundary.
absl::Status Open(std::string& stream) {
  const absl::StatusOr<LastBlock> last = FindLastBlock(stream);
  if (!last.ok()) return absl::InternalError(last.status().message());
  char& header = stream[last->header_bit / 8];
  header = static_cast<char>(header & ~(1 << (last->header_bit % 8)));
  constexpr size_t kStoredHeaderBits = 3;
  stream.resize((last->end_bit + kStoredHeaderBits + 7) / 8, '\0');
  stream.append(kEmptyStored, sizeof kEmptyStored);
  return absl::OkStatus();
}

}  // namespace

void StripDeflater::Free::operator()(libdeflate_compressor* compressor) const {
  libdeflate_free_compressor(compressor);
}

StripDeflater::StripDeflater(int level) : compressor_(libdeflate_alloc_compressor(level)) {
  if (compressor_ == nullptr) throw std::bad_alloc();
}

StripDeflater::~StripDeflater() = default;

absl::StatusOr<std::string> StripDeflater::Deflate(std::span<const uint8_t> data, StripEnd end) {
  std::string stream(libdeflate_deflate_compress_bound(compressor_.get(), data.size()), '\0');
  const size_t size = libdeflate_deflate_compress(compressor_.get(), data.data(), data.size(),
                                                  stream.data(), stream.size());
  if (size == 0) {
    return absl::InternalError(absl::StrCat("libdeflate: no room for ", data.size(),
                                            " bytes in its own bound of ", stream.size()));
  }
  stream.resize(size);
  if (end == StripEnd::kOpen) {
    if (absl::Status status = Open(stream); !status.ok()) return status;
  }
  return stream;
}

}  // namespace patchflow

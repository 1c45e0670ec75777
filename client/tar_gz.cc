#include "client/tar_gz.h"

#include <fcntl.h>
#include <libdeflate.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace patchflow {
namespace {

constexpr size_t kBlockBytes = 512;
constexpr size_t kMaxNameBytes = 99;
constexpr int kLevel = 6;

// A header of POSIX.1-1988's ustar; the checksum is of the header with its own field of spaces.
std::string Header(const PackedFile& file, absl::Time time) {
  std::string header(kBlockBytes, '\0');
  const auto put = [&header](size_t at, const std::string& text) {
    header.replace(at, text.size(), text);
  };
  put(0, file.name);
  put(100, "0000600");
  put(108, "0000000");
  put(116, "0000000");
  put(124, absl::StrFormat("%011o", file.bytes.size()));
  put(136, absl::StrFormat("%011o", absl::ToUnixSeconds(time)));
  put(148, "        ");
  put(156, "0");
  put(257, "ustar");
  put(263, "00");
  unsigned sum = 0;
  for (const char byte : header) sum += static_cast<unsigned char>(byte);
  put(148, absl::StrFormat("%06o", sum) + std::string(1, '\0') + " ");
  return header;
}

absl::Status WriteNew(const std::string& path, const std::string& bytes) {
  const int file = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (file < 0) {
    const std::string why = absl::StrCat("can't write ", path, ": ", std::strerror(errno));
    return errno == EEXIST ? absl::AlreadyExistsError(why) : absl::UnavailableError(why);
  }
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t part = write(file, bytes.data() + written, bytes.size() - written);
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) {
      const std::string why = std::strerror(errno);
      close(file);
      unlink(path.c_str());
      return absl::UnavailableError(absl::StrCat("can't write ", path, ": ", why));
    }
    written += static_cast<size_t>(part);
  }
  close(file);
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteTarGz(const std::string& path, const std::vector<PackedFile>& files,
                        absl::Time time) {
  std::string tar;
  for (const PackedFile& file : files) {
    if (file.name.size() > kMaxNameBytes)
      return absl::InvalidArgumentError(
          absl::StrCat("a name of ", file.name.size(), " bytes, limit ", kMaxNameBytes));
    tar += Header(file, time);
    tar += file.bytes;
    tar.resize((tar.size() + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
  }
  tar.resize(tar.size() + 2 * kBlockBytes);
  const std::unique_ptr<libdeflate_compressor, decltype(&libdeflate_free_compressor)> compressor(
      libdeflate_alloc_compressor(kLevel), libdeflate_free_compressor);
  std::string packed(libdeflate_gzip_compress_bound(compressor.get(), tar.size()), '\0');
  packed.resize(libdeflate_gzip_compress(compressor.get(), tar.data(), tar.size(), packed.data(),
                                         packed.size()));
  return WriteNew(path, packed);
}

}  // namespace patchflow

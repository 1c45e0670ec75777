#include "engine/weights/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/weights/json_text.h"

namespace patchflow {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // As the format's own library.
constexpr size_t kMaxDims = 16;
constexpr size_t kMaxNameBytes = 1024;

struct DtypeName {
  std::string_view name;
  at::ScalarType dtype;
};
constexpr std::array<DtypeName, 15> kDtypes = {{
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"F64", at::kDouble},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"U16", at::kUInt16},
    {"U32", at::kUInt32},
    {"U64", at::kUInt64},
    {"BOOL", at::kBool},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
}};

std::optional<at::ScalarType> DtypeOf(const json& name) {
  for (const DtypeName& d : kDtypes) {
    if (name == d.name) return d.dtype;
  }
  return std::nullopt;
}

// An integer of the header that fits std::int64_t and is not negative.
std::optional<int64_t> Count(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto count = value.get<uint64_t>();
  if (count > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
  return static_cast<int64_t>(count);
}

std::optional<std::vector<int64_t>> Counts(const json& value, size_t max_length) {
  if (!value.is_array() || value.size() > max_length) return std::nullopt;
  std::vector<int64_t> out;
  for (const json& item : value) {
    const std::optional<int64_t> count = Count(item);
    if (!count) return std::nullopt;
    out.push_back(*count);
  }
  return out;
}

// Elements x bytes an element; nothing on overflow.
std::optional<int64_t> BytesOf(const std::vector<int64_t>& shape, at::ScalarType dtype) {
  auto bytes = static_cast<int64_t>(c10::elementSize(dtype));
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  }
  return bytes;
}

struct Placed {
  StoredTensor tensor;
  int64_t begin;
  int64_t end;
};

absl::StatusOr<Placed> ParseEntry(const json& entry, std::byte* data, int64_t data_bytes) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets") || entry.size() != 3) {
    return absl::InvalidArgumentError("is not {dtype, shape, data_offsets}");
  }
  const std::optional<at::ScalarType> dtype = DtypeOf(entry["dtype"]);
  if (!dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", Abbreviated(entry["dtype"]), " is unknown"));
  }
  const auto shape = Counts(entry["shape"], kMaxDims);
  if (!shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shape ", Abbreviated(entry["shape"]), " is not a list of at most ", kMaxDims, " sizes"));
  }
  const auto offsets = Counts(entry["data_offsets"], 2);
  if (!offsets || offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) {
    return absl::InvalidArgumentError(
        absl::StrCat("data_offsets ", Abbreviated(entry["data_offsets"]), " are not [begin, end]"));
  }
  const int64_t begin = (*offsets)[0];
  const int64_t end = (*offsets)[1];
  if (end > data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("ends at byte ", end, " of the data, which has ",
                                                   data_bytes, " (a truncated file?)"));
  }
  const std::optional<int64_t> bytes = BytesOf(*shape, *dtype);
  if (!bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape [", absl::StrJoin(*shape, ", "), "] overflows"));
  }
  if (*bytes != end - begin) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", end - begin, " bytes, but shape [", absl::StrJoin(*shape, ", "),
                     "] of ", entry["dtype"].get<std::string>(), " takes ", *bytes));
  }
  return Placed{{*dtype, *shape, data + begin, *bytes}, begin, end};
}

std::string Quoted(const std::string& name) { return Abbreviated(json(name)); }

struct Run {
  int64_t begin;
  int64_t end;
  const std::string* name;
};

// The tensors must follow each other without overlap or gap, and fill the data.
absl::Status CheckRuns(std::vector<Run> runs, int64_t data_bytes) {
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t at = 0;
  const std::string* before = nullptr;
  for (const Run& run : runs) {
    if (run.begin < at) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(*run.name), " at byte ",
                                                     run.begin, " overlaps ", Quoted(*before),
                                                     ", which ends at ", at));
    }
    if (run.begin > at) {
      return absl::InvalidArgumentError(absl::StrCat("bytes ", at, " to ", run.begin,
                                                     " of the data before tensor ",
                                                     Quoted(*run.name), " belong to no tensor"));
    }
    at = run.end;
    before = run.name;
  }
  if (at != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tensors end at byte ", at, " of the data, which has ", data_bytes));
  }
  return absl::OkStatus();
}

absl::Status FileError(const std::filesystem::path& file, int error) {
  const std::string what = absl::StrCat(file.string(), ": ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(what) : absl::InvalidArgumentError(what);
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::filesystem::path path, std::byte* mapped, size_t bytes)
    : path_(std::move(path)), mapped_(mapped), bytes_(bytes) {}

SafetensorsFile::~SafetensorsFile() { munmap(mapped_, bytes_); }

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::filesystem::path& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileError(file, errno);
  const auto close_fd = absl::MakeCleanup([fd] { close(fd); });
  struct stat info;
  if (fstat(fd, &info) != 0) return FileError(file, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": not a regular file"));
  }
  const auto bytes = static_cast<size_t>(info.st_size);
  if (bytes < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.string(), ": ", bytes, " bytes are no safetensors file"));
  }
  void* mapped =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, /*offset=*/0);
  if (mapped == MAP_FAILED) return FileError(file, errno);
  std::shared_ptr<SafetensorsFile> out(
      new SafetensorsFile(file, static_cast<std::byte*>(mapped), bytes));
  if (absl::Status status = out->ReadHeader(); !status.ok()) return status;
  return out;
}

absl::Status SafetensorsFile::ReadHeader() {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapped_, kLengthBytes);
  const uint64_t limit = std::min<uint64_t>(kMaxHeaderBytes, bytes_ - kLengthBytes);
  if (header_bytes > limit) {
    return absl::InvalidArgumentError(absl::StrCat(path_.string(), ": header of ", header_bytes,
                                                   " bytes, but at most ", limit,
                                                   " are possible in ", bytes_));
  }
  const std::string_view text(reinterpret_cast<const char*>(mapped_) + kLengthBytes, header_bytes);
  const absl::StatusOr<json> header =
      ParseJson(text, absl::StrCat(path_.string(), ": header"),
                {.nonfinite = false, .unique_keys = true, .max_depth = 4});
  if (!header.ok()) return header.status();
  if (!header->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path_.string(), ": header is not an object"));
  }

  std::byte* data = mapped_ + kLengthBytes + header_bytes;
  const auto data_bytes = static_cast<int64_t>(bytes_ - kLengthBytes - header_bytes);
  std::vector<Run> runs;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") continue;
    absl::StatusOr<Placed> placed =
        name.size() > kMaxNameBytes
            ? absl::InvalidArgumentError(absl::StrCat("has a name of ", name.size(),
                                                      " bytes, the limit is ", kMaxNameBytes))
            : ParseEntry(entry, data, data_bytes);
    if (!placed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_.string(), ": tensor ", Quoted(name), " ", placed.status().message()));
    }
    const auto added = tensors_.emplace(name, std::move(placed->tensor)).first;
    runs.push_back({placed->begin, placed->end, &added->first});
  }
  if (absl::Status status = CheckRuns(std::move(runs), data_bytes); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path_.string(), ": ", status.message()));
  }
  return absl::OkStatus();
}

}  // namespace patchflow

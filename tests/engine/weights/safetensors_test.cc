#include "engine/weights/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <numeric>
#include <random>

#include "tests/engine/weights/safetensors_writer.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

using nlohmann::ordered_json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest()
      : valid_(PartsOf({{"a", at::arange(6, at::kFloat).view({2, 3})},
                        {"b", at::arange(4, at::kLong).to(at::kHalf)},
                        {"c", at::ones({2, 2}, at::kBFloat16)}})) {}

  absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(std::string_view bytes) {
    return SafetensorsFile::Open(dir_.Write("w.safetensors", bytes));
  }

  // The status of a file that must be refused.
  std::string Error(std::string_view bytes) {
    const absl::Status status = Open(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                StartsWith((dir_.path() / "w.safetensors").string() + ": "));
    return std::string(status.message());
  }
  std::string Error(const SafetensorsParts& parts) {
    return Error(SafetensorsBytes(parts.header.dump(), parts.data));
  }
  // With one field of tensor "b" changed.
  std::string ErrorWith(const char* field, const ordered_json& value) {
    SafetensorsParts parts = valid_;
    parts.header["b"][field] = value;
    return Error(parts);
  }

  ScratchDir dir_;
  SafetensorsParts valid_;
};

TEST_F(SafetensorsTest, MapsTensors) {
  const auto file = Open(SafetensorsBytes(valid_.header.dump(), valid_.data));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 3);
  const StoredTensor& a = (*file)->tensors().at("a");
  EXPECT_EQ(a.dtype, at::kFloat);
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_EQ(a.bytes, 24);
  float last = 0;
  std::memcpy(&last, a.data + 20, sizeof(last));
  EXPECT_EQ(last, 5);
  EXPECT_EQ((*file)->tensors().at("c").dtype, at::kBFloat16);
}

TEST_F(SafetensorsTest, TakesEmptyFilesScalarsEmptyTensorsAndPaddedHeaders) {
  EXPECT_TRUE(Open(SafetensorsBytes("{}", "")).ok());
  const auto file = Open(SafetensorsBytes(
      R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}}    )",
      "abcd"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().at("s").bytes, 4);
  EXPECT_EQ((*file)->tensors().at("e").bytes, 0);
}

TEST_F(SafetensorsTest, WritingChangesNoFile) {
  const std::string bytes = SafetensorsBytes(valid_.header.dump(), valid_.data);
  const auto file = Open(bytes);
  ASSERT_TRUE(file.ok());
  (*file)->tensors().at("a").data[0] = std::byte{77};
  const auto again = SafetensorsFile::Open(dir_.path() / "w.safetensors");
  EXPECT_EQ((*again)->tensors().at("a").data[0], std::byte{0});
}

TEST_F(SafetensorsTest, NamesTheAbsentFile) {
  const auto status = SafetensorsFile::Open(dir_.path() / "none.safetensors").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("none.safetensors"));
  EXPECT_EQ(SafetensorsFile::Open(dir_.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SafetensorsTest, RefusesEveryTruncation) {
  const std::string bytes = SafetensorsBytes(valid_.header.dump(), valid_.data);
  for (size_t length = 0; length < bytes.size(); ++length) {
    Error(std::string_view(bytes).substr(0, length));
  }
  EXPECT_THAT(
      Error(std::string_view(bytes).substr(0, bytes.size() - 1)),
      AllOf(HasSubstr("tensor \"c\""), HasSubstr("ends at byte 40 of the data, which has 39"),
            HasSubstr("truncated")));
  EXPECT_THAT(Error("1234567"), HasSubstr("7 bytes are no safetensors file"));
}

TEST_F(SafetensorsTest, RefusesAHeaderLengthThatLies) {
  std::string bytes = SafetensorsBytes("{}", "");
  bytes[0] = 3;
  EXPECT_THAT(Error(bytes), HasSubstr("header of 3 bytes, but at most 2 are possible in 10"));
  std::memset(bytes.data(), 0xff, 8);
  EXPECT_THAT(Error(bytes), HasSubstr("header of 18446744073709551615 bytes"));
  EXPECT_THAT(Error(SafetensorsBytes("", "")), HasSubstr("not JSON"));
}

TEST_F(SafetensorsTest, RefusesHeadersOverTheLimit) {
  const auto path = dir_.Write("w.safetensors", SafetensorsBytes("{}", ""));
  const uint64_t length = 100'000'001;
  std::filesystem::resize_file(path, length + 8);
  std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out.close();
  EXPECT_THAT(std::string(SafetensorsFile::Open(path).status().message()),
              HasSubstr("header of 100000001 bytes, but at most 100000000"));
}

TEST_F(SafetensorsTest, RefusesWhatIsNoHeader) {
  EXPECT_THAT(Error(SafetensorsBytes("[]", "")), HasSubstr("header is not an object"));
  EXPECT_THAT(Error(SafetensorsBytes("{\"a\": }", "")), HasSubstr("header: not JSON at byte 7"));
  EXPECT_THAT(Error(SafetensorsBytes(R"({"a":[[[[[[]]]]]]})", "")), HasSubstr("nested 7 deep"));
  EXPECT_THAT(Error(SafetensorsBytes(R"({"a":3})", "")),
              HasSubstr("tensor \"a\" is not {dtype, shape, data_offsets}"));
  const std::string entry = R"({"dtype":"F32","shape":[],"data_offsets":[0,4]})";
  EXPECT_THAT(Error(SafetensorsBytes("{\"a\":" + entry + ",\"a\":" + entry + "}", "abcd")),
              HasSubstr("the key \"a\" stands twice"));
}

TEST_F(SafetensorsTest, RefusesWrongDtypes) {
  EXPECT_THAT(ErrorWith("dtype", "F17"), HasSubstr("tensor \"b\" dtype \"F17\" is unknown"));
  EXPECT_THAT(ErrorWith("dtype", 16), HasSubstr("dtype 16 is unknown"));
}

TEST_F(SafetensorsTest, RefusesWrongShapes) {
  EXPECT_THAT(ErrorWith("shape", "4"), HasSubstr("shape \"4\" is not a list"));
  EXPECT_THAT(ErrorWith("shape", {-4}), HasSubstr("shape [-4] is not a list"));
  EXPECT_THAT(ErrorWith("shape", {2.0, 2}), HasSubstr("is not a list"));
  EXPECT_THAT(ErrorWith("shape", std::vector<int>(17, 1)), HasSubstr("at most 16 sizes"));
  EXPECT_THAT(ErrorWith("shape", {5}),
              HasSubstr("tensor \"b\" has 8 bytes, but shape [5] of F16 takes 10"));
}

TEST_F(SafetensorsTest, RefusesShapesThatOverflow) {
  const int64_t big = int64_t{1} << 32;
  EXPECT_THAT(ErrorWith("shape", {big, big}), HasSubstr("overflows"));
  EXPECT_THAT(ErrorWith("shape", {big, big, 4}), HasSubstr("overflows"));
  EXPECT_THAT(ErrorWith("shape", {uint64_t{1} << 63}), HasSubstr("is not a list"));
  EXPECT_THAT(ErrorWith("shape", {int64_t{1} << 62, 4}), HasSubstr("overflows"));
}

TEST_F(SafetensorsTest, RefusesWrongOffsets) {
  EXPECT_THAT(ErrorWith("data_offsets", {32, 24}), HasSubstr("data_offsets [32,24] are not"));
  EXPECT_THAT(ErrorWith("data_offsets", {24}), HasSubstr("are not [begin, end]"));
  EXPECT_THAT(ErrorWith("data_offsets", {24, 28, 32}), HasSubstr("are not [begin, end]"));
  EXPECT_THAT(ErrorWith("data_offsets", {-8, 0}), HasSubstr("are not [begin, end]"));
  EXPECT_THAT(ErrorWith("data_offsets", {4000, 4008}), HasSubstr("ends at byte 4008"));
  EXPECT_THAT(ErrorWith("data_offsets", {24, INT64_MAX}), HasSubstr("ends at byte"));
}

TEST_F(SafetensorsTest, RefusesOverlapsAndHoles) {
  EXPECT_THAT(ErrorWith("data_offsets", {16, 24}),
              HasSubstr("tensor \"b\" at byte 16 overlaps \"a\", which ends at 24"));
  SafetensorsParts parts = valid_;
  parts.header.erase("b");
  EXPECT_THAT(Error(parts), HasSubstr("bytes 24 to 32 of the data before tensor \"c\""));
  parts = valid_;
  parts.data += "x";
  EXPECT_THAT(Error(parts), HasSubstr("the tensors end at byte 40 of the data, which has 41"));
}

TEST_F(SafetensorsTest, RefusesLongNames) {
  SafetensorsParts parts = valid_;
  parts.header[std::string(5000, 'n')] = parts.header["c"];
  EXPECT_THAT(Error(parts), HasSubstr("has a name of 5000 bytes, the limit is 1024"));
}

// A file in memory, so that thousands of them touch no disk.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {}
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::filesystem::path Set(std::string_view bytes) const {
    EXPECT_EQ(ftruncate(fd_, 0), 0);
    EXPECT_EQ(pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return "/proc/self/fd/" + std::to_string(fd_);
  }

 private:
  int fd_;
};

TEST_F(SafetensorsTest, NeverCrashesOnDamagedFiles) {
  const std::string valid = SafetensorsBytes(valid_.header.dump(), valid_.data);
  const MemoryFile memory;
  std::mt19937 random(11);
  const std::string_view spice = "0123456789{}[]\",:-.eEnulF\\ ";
  int accepted = 0;
  int64_t sum = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = valid;
    for (int n = static_cast<int>(random() % 3); n >= 0; --n) {
      const size_t at = random() % bytes.size();
      bytes[at] = random() % 2 == 0 ? static_cast<char>(random()) : spice[random() % spice.size()];
      if (random() % 8 == 0) bytes.erase(random() % bytes.size(), 1 + random() % 9);
      if (random() % 8 == 0)
        bytes.insert(random() % bytes.size(), 1, spice[random() % spice.size()]);
    }
    const auto file = SafetensorsFile::Open(memory.Set(bytes));
    if (!file.ok()) continue;
    ++accepted;
    for (const auto& [name, stored] : (*file)->tensors()) {
      for (int64_t b = 0; b < stored.bytes; ++b) sum += static_cast<int64_t>(stored.data[b]);
    }
  }
  EXPECT_GT(accepted, 200);  // Damage to names and data alone.
  EXPECT_GT(sum, 0);
}

}  // namespace
}  // namespace patchflow

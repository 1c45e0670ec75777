// Wall time of encoding a noisy image of 1024 px as PNG: libpng with its defaults (zlib level 6),
// and EncodeImage on one and on two threads, in turns. Prints one table; exit status 1 if two
// threads take more than 60 ms or a file can't be read back.
#include <png.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/noisy_image.h"
#include "engine/image/image.h"

namespace patchflow {
namespace {

constexpr int kSizePx = 1024;
constexpr uint64_t kSeed = 1;
constexpr double kMostMs = 60;

struct Encoder {
  const char* name;
  std::function<std::string(const Image&)> encode;
  std::vector<double> ms;
  size_t bytes = 0;
};

png_image Description(const Image& image) {
  png_image description{};
  description.version = PNG_IMAGE_VERSION;
  description.width = static_cast<png_uint_32>(image.width_px);
  description.height = static_cast<png_uint_32>(image.height_px);
  description.format = PNG_FORMAT_RGB;
  return description;
}

std::string EncodeByLibpng(const Image& image) {
  png_image description = Description(image);
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(description);
  std::string png(size, '\0');
  if (png_image_write_to_memory(&description, png.data(), &size, 0, image.pixels.data(), 0,
                                nullptr) == 0) {
    return "";
  }
  png.resize(size);
  return png;
}

std::string EncodeHere(const Image& image, int threads) {
  return EncodeImage(image, {.threads = threads}).value_or("");
}

bool ReadsBackAs(const std::string& png, const Image& image) {
  png_image description{};
  description.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_memory(&description, png.data(), png.size()) == 0) return false;
  description.format = PNG_FORMAT_RGB;
  std::vector<uint8_t> pixels(PNG_IMAGE_SIZE(description));
  return png_image_finish_read(&description, nullptr, pixels.data(), 0, nullptr) != 0 &&
         pixels == image.pixels;
}

std::string ProcessorName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Run(int rounds) {
  const Image image = NoisyImage(kSizePx, kSizePx, kSeed);
  std::vector<Encoder> encoders;
  encoders.push_back({"libpng, zlib level 6", EncodeByLibpng, {}});
  encoders.push_back(
      {"EncodeImage, 1 thread", [](const Image& i) { return EncodeHere(i, 1); }, {}});
  encoders.push_back(
      {"EncodeImage, 2 threads", [](const Image& i) { return EncodeHere(i, 2); }, {}});
  for (int round = 0; round < rounds; ++round) {
    for (Encoder& encoder : encoders) {
      const absl::Time start = absl::Now();
      const std::string png = encoder.encode(image);
      encoder.ms.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
      encoder.bytes = png.size();
      if (round == 0 && !ReadsBackAs(png, image)) {
        std::fprintf(stderr, "%s: the file does not read back\n", encoder.name);
        return 1;
      }
    }
  }
  std::printf(
      "PNG of %dx%d px, gradients under noise, seed %d; %s, %u threads; %d rounds in turns\n\n",
      kSizePx, kSizePx, static_cast<int>(kSeed), ProcessorName().c_str(),
      std::thread::hardware_concurrency(), rounds);
  std::printf("| encoder | median ms | least ms | bytes |\n| --- | ---: | ---: | ---: |\n");
  for (const Encoder& encoder : encoders) {
    std::printf("| %s | %.1f | %.1f | %zu |\n", encoder.name, Median(encoder.ms),
                *std::min_element(encoder.ms.begin(), encoder.ms.end()), encoder.bytes);
  }
  const double ms = Median(encoders.back().ms);
  std::printf("\n%.1f ms on two threads, at most %.0f wanted: %s\n", ms, kMostMs,
              ms <= kMostMs ? "ok" : "TOO SLOW");
  return ms <= kMostMs ? 0 : 1;
}

}  // namespace
}  // namespace patchflow

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  if (argc > 2 || rounds < 1) {
    std::fprintf(stderr, "usage: %s [ROUNDS]\n", argv[0]);
    return 2;
  }
  return patchflow::Run(rounds);
}

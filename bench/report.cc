#include "bench/report.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/headeronly/version.h>

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "engine/device.h"

namespace patchflow {
namespace {

std::string ProcessorName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

nlohmann::json MachineOf(at::Device device) {
  nlohmann::json machine = {
      {"device", DeviceName(device)},     {"gpus", CudaDeviceCount()},
      {"processor", ProcessorName()},     {"processors", std::thread::hardware_concurrency()},
      {"threads", at::get_num_threads()}, {"libtorch", TORCH_VERSION}};
  return machine;
}

std::string CellOf(const nlohmann::json& row, const Column& column) {
  const auto found = row.find(column.key);
  if (found == row.end() || found->is_null()) return "-";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_number_float()) return found->dump();
  char text[32];
  std::snprintf(text, sizeof(text), "%.*f", column.decimals, found->get<double>());
  return text;
}

}  // namespace

Report::Report(std::string name, at::Device device, std::string what, std::vector<Column> columns)
    : columns_(std::move(columns)) {
  json_["command"] = std::move(name);
  json_["machine"] = MachineOf(device);
  json_["what"] = what;
  json_["rows"] = nlohmann::json::array();
  const std::string hardware =
      device.is_cuda()
          ? DeviceName(device)
          : ProcessorName() + ", " + std::to_string(at::get_num_threads()) + " threads";
  std::printf("%s: %s\n\n|", hardware.c_str(), what.c_str());
  for (const Column& column : columns_) std::printf(" %s |", column.title.c_str());
  std::printf("\n|");
  for (size_t i = 0; i < columns_.size(); ++i) std::printf("---|");
  std::printf("\n");
  std::fflush(stdout);
}

void Report::Row(nlohmann::json row) {
  std::printf("|");
  for (const Column& column : columns_) std::printf(" %s |", CellOf(row, column).c_str());
  std::printf("\n");
  std::fflush(stdout);
  json_["rows"].push_back(std::move(row));
}

void Report::Add(const std::string& key, nlohmann::json value) { json_[key] = std::move(value); }

void Report::Write(const std::string& path) const {
  if (path.empty()) return;
  const std::string unfinished = path + ".unfinished";
  std::ofstream file(unfinished);
  file << json_.dump(1) << "\n";
  file.close();
  if (!file || std::rename(unfinished.c_str(), path.c_str()) != 0) {
    throw std::runtime_error("--json: cannot write " + path);
  }
}

}  // namespace patchflow

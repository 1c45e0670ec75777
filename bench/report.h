// One table: printed with the machine above it, and the same numbers as JSON.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace patchflow {

struct Column {
  std::string key;    // In JSON; with its unit.
  std::string title;  // In the table.
  int decimals = 1;   // Of numbers that are not whole.
};

class Report {
 public:
  // Prints what is measured and the table's head.
  Report(std::string name, at::Device device, std::string what, std::vector<Column> columns);

  // By the columns' keys; a key that is left out prints as "-". Prints the row at once, so that a
  // run that is cut short shows what it had.
  void Row(nlohmann::json row);
  // What does not fit the table, into the JSON alone.
  void Add(const std::string& key, nlohmann::json value);
  // At once: a reader sees what was written before or all of this. Throws std::runtime_error if the
  // file can't be written. An empty path writes nothing.
  void Write(const std::string& path) const;

 private:
  std::vector<Column> columns_;
  nlohmann::json json_;
};

}  // namespace patchflow

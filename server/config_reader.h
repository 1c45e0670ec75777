// Reads a YAML document key by key and gathers every fault, each with file, line and key.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace patchflow {

// What is wrong with a configuration, in the order in which it was found.
class ConfigErrors {
 public:
  explicit ConfigErrors(std::string file) : file_(std::move(file)) {}

  // "FILE:LINE: KEY: TEXT". Lines count from 1; a null mark leaves the line out.
  void Add(const YAML::Mark& mark, const std::string& key, const std::string& text);
  bool empty() const { return lines_.empty(); }
  // One fault a line.
  std::string Text() const;

 private:
  std::string file_;
  std::vector<std::string> lines_;
};

// One mapping of the document. A getter returns its default if the key is absent, and also, after
// noting the fault, if the value has the wrong type or is out of range. Finish() notes keys that no
// getter asked for. `errors` must outlive the reader.
class MapReader {
 public:
  // `path` is what faults call this mapping: "groups[0].layout"; empty at the top.
  MapReader(const YAML::Node& node, std::string path, ConfigErrors& errors);

  bool Has(const std::string& key) const;
  std::string String(const std::string& key, const std::string& absent);
  std::string RequiredString(const std::string& key);
  std::string OneOf(const std::string& key, const std::string& absent,
                    const std::vector<std::string>& choices);
  int64_t Integer(const std::string& key, int64_t absent, int64_t min, int64_t max);
  double Number(const std::string& key, double absent, double min, double max);
  bool Boolean(const std::string& key, bool absent);
  // "30s", "500ms", "1m30s", or a number of seconds.
  absl::Duration Duration(const std::string& key, absl::Duration absent, absl::Duration min,
                          absl::Duration max);
  std::vector<std::string> Strings(const std::string& key);
  // Empty if absent.
  MapReader Map(const std::string& key);
  // The mappings of a sequence.
  std::vector<MapReader> Maps(const std::string& key);

  void Finish();

  // Notes a fault of the value of `key`, or of the mapping itself if it has no such key.
  void Fault(const std::string& key, const std::string& text);

 private:
  YAML::Node Find(const std::string& key);
  std::string Path(const std::string& key) const;
  // A scalar's text; empty after noting the fault, with `ok` false, if it is none.
  std::string Scalar(const std::string& key, const YAML::Node& value, const char* expected,
                     bool* ok);

  YAML::Node node_;
  std::string path_;
  ConfigErrors* errors_;
  std::set<std::string> known_;
};

// The choice nearest to `word`, if it is near enough to be a slip of the pen; empty otherwise.
std::string NearestWord(const std::string& word, const std::set<std::string>& choices);

}  // namespace patchflow

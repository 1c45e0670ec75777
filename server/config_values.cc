#include "server/config_values.h"

#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

// host:port, [v6]:port or unix:PATH.
bool AddressIsWellFormed(const std::string& address) {
  if (address.rfind("unix:", 0) == 0) {
    return address.size() > 5;
  }
  const size_t colon = address.rfind(':');
  int port = -1;
  return colon != std::string::npos && colon > 0 &&
         absl::SimpleAtoi(address.substr(colon + 1), &port) && port >= 0 && port <= 65535;
}

}  // namespace

void CheckAddress(MapReader& reader, const std::string& key, const std::string& address) {
  if (!address.empty() && !AddressIsWellFormed(address)) {
    reader.Fault(key, absl::StrCat("'", address, "' is not host:port with a port of 0 to 65535"));
  }
}

bool IsThisHost(const std::string& address) {
  for (const char* prefix : {"unix:", "127.", "localhost:", "[::1]:"}) {
    if (address.rfind(prefix, 0) == 0) {
      return true;
    }
  }
  return false;
}

std::string AbsolutePath(const std::string& path, const std::string& directory) {
  std::filesystem::path absolute = (std::filesystem::path(directory) / path).lexically_normal();
  if (!absolute.has_filename()) {
    absolute = absolute.parent_path();
  }
  return absolute.string();
}

std::string ReadPath(MapReader& reader, const std::string& key, const std::string& directory) {
  const std::string path = reader.String(key, "");
  return path.empty() ? "" : AbsolutePath(path, directory);
}

}  // namespace patchflow

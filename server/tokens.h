// The bearer tokens of a file, and what each may do.
//
//   tokens:
//     - name: studio               # whom logs, rates and request_ids belong to; unique
//       token: "16 to 512 characters"
//       methods: [GenerateImages]  # of patchflow.v1.ImageGenerationService; default: all
//       high_priority: false       # may ask for PRIORITY_HIGH
//     - name: nightly
//       sha256: 64 hexadecimal digits  # of the token, instead of the token itself
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/identity.h"

namespace patchflow {

// Immutable. Holds digests only, no token.
class TokenTable {
 public:
  // INVALID_ARGUMENT with every fault, one a line, as "FILE:LINE: KEY: TEXT"; never with a token.
  static absl::StatusOr<TokenTable> Parse(const std::string& text, const std::string& file);
  // The same of a file of at most 1 MiB; NOT_FOUND if it cannot be read.
  static absl::StatusOr<TokenTable> Load(const std::string& file);

  // Whom `token` belongs to, if it may call `method`; an empty method needs any valid token.
  // UNAUTHENTICATED / UNAUTHENTICATED, or PERMISSION_DENIED / PERMISSION_DENIED naming the method.
  // Takes as long for every token of one length, and looks at all entries.
  absl::StatusOr<Identity> Check(const std::string& token, const std::string& method) const;
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string name;
    std::string digest;             // SHA-256, 32 bytes.
    std::set<std::string> methods;  // Empty: all.
    bool high_priority = false;
  };
  std::vector<Entry> entries_;
};

}  // namespace patchflow

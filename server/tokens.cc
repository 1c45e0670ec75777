#include "server/tokens.h"

#include <openssl/crypto.h>

#include <fstream>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/config_reader.h"
#include "server/errors.h"
#include "server/sha256.h"

namespace patchflow {
namespace {

constexpr size_t kMinTokenBytes = 16;
constexpr size_t kMaxTokenBytes = 512;
constexpr size_t kDigestBytes = 32;
constexpr size_t kMaxFileBytes = 1 << 20;
const char* const kMethods[] = {
    "GenerateImages",   "GenerateImagesUnary", "GetGeneration", "FetchGeneration",
    "CancelGeneration", "GetGenerationTrace",  "ListModels",    "GetModel"};

std::string ReadDigest(MapReader& reader) {
  if (reader.Has("token") == reader.Has("sha256")) {
    reader.Fault("token", "either 'token' or 'sha256' is needed");
    (void)reader.String("token", "");
    (void)reader.String("sha256", "");
    return "";
  }
  const std::string token = reader.String("token", "");
  const std::string hex = reader.String("sha256", "");
  if (reader.Has("sha256")) {
    const bool is_hex = hex.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
    if (hex.size() != 2 * kDigestBytes || !is_hex) {
      reader.Fault("sha256", "64 hexadecimal digits are needed");
      return "";
    }
    return std::string(absl::HexStringToBytes(hex));
  }
  if (token.size() < kMinTokenBytes || token.size() > kMaxTokenBytes ||
      token.find_first_of(" \t\r\n") != std::string::npos) {
    reader.Fault("token",
                 absl::StrCat(kMinTokenBytes, " to ", kMaxTokenBytes,
                              " characters without spaces are needed, not ", token.size()));
    return "";
  }
  return Sha256(token);
}

std::set<std::string> ReadMethods(MapReader& reader) {
  std::set<std::string> methods;
  const std::set<std::string> known(std::begin(kMethods), std::end(kMethods));
  for (const std::string& method : reader.Strings("methods")) {
    if (known.count(method) == 0) {
      reader.Fault("methods", absl::StrCat("'", CutText(method, 64), "' is none of ",
                                           absl::StrJoin(known, ", ")));
    }
    methods.insert(method);
  }
  if (reader.Has("methods") && methods.empty()) {
    reader.Fault("methods", "at least one is needed; leave it out for all");
  }
  return methods;
}

absl::Status Unauthenticated(const char* why) {
  return MakeError(absl::StatusCode::kUnauthenticated, reason::kUnauthenticated, why);
}

}  // namespace

absl::StatusOr<TokenTable> TokenTable::Parse(const std::string& text, const std::string& file) {
  ConfigErrors errors(file);
  TokenTable table;
  try {
    MapReader top(YAML::Load(text), "", errors);
    std::set<std::string> names;
    for (MapReader& reader : top.Maps("tokens")) {
      Entry entry;
      entry.name = reader.RequiredString("name");
      if (entry.name.size() > 64 || !names.insert(entry.name).second) {
        reader.Fault("name", "a unique name of at most 64 characters is needed");
      }
      entry.digest = ReadDigest(reader);
      entry.methods = ReadMethods(reader);
      entry.high_priority = reader.Boolean("high_priority", false);
      reader.Finish();
      table.entries_.push_back(std::move(entry));
    }
    if (table.entries_.empty()) {
      top.Fault("tokens", "at least one token is needed");
    }
    top.Finish();
  } catch (const YAML::Exception& e) {
    errors.Add(e.mark, "", e.msg);
  }
  if (!errors.empty()) {
    return absl::InvalidArgumentError(errors.Text());
  }
  return table;
}

absl::StatusOr<TokenTable> TokenTable::Load(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string text(kMaxFileBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (!stream.eof() && text.size() <= kMaxFileBytes) {
    return absl::NotFoundError(absl::StrCat("cannot read the tokens of '", file, "'"));
  }
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": more than ", kMaxFileBytes, " bytes of tokens"));
  }
  return Parse(text, file);
}

absl::StatusOr<Identity> TokenTable::Check(const std::string& token,
                                           const std::string& method) const {
  const std::string digest = Sha256(token);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.digest.data(), digest.data(), kDigestBytes) == 0) {
      found = &entry;
    }
  }
  if (found == nullptr) {
    return Unauthenticated("the bearer token is not known here");
  }
  if (!method.empty() && !found->methods.empty() && found->methods.count(method) == 0) {
    return MakeError(absl::StatusCode::kPermissionDenied, reason::kPermissionDenied,
                     absl::StrCat("the token has no right to ", method), {{"right", method}});
  }
  return Identity{found->name, found->name, found->high_priority};
}

}  // namespace patchflow

// A SentencePiece model. The library's header defines absl::string_view, so it stays behind this
// one, and files that include this one may include abseil.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace patchflow {

enum class DummyPrefix { kAsTrained, kNone };

// Thread-safe.
class SentencePieceModel {
 public:
  // `serialized`: the bytes of a spiece.model. Nothing, and why in `error`, for a damaged one.
  //   kNone: no space is put before a text, whatever the model was trained with.
  static std::unique_ptr<SentencePieceModel> Parse(std::string serialized, DummyPrefix prefix,
                                                   std::string& error);
  ~SentencePieceModel();

  int64_t size() const;
  const std::string& PieceOf(int64_t id) const;
  // The id of the unknown piece for what is no piece.
  int64_t IdOf(const std::string& piece) const;
  // Pieces; what is unknown stands as it was in the text. Throws std::runtime_error.
  std::vector<std::string> Encode(std::string_view text) const;

 private:
  struct Processor;
  explicit SentencePieceModel(std::unique_ptr<Processor> processor);
  std::unique_ptr<Processor> processor_;
};

}  // namespace patchflow

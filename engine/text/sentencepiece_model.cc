#include "engine/text/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <optional>
#include <stdexcept>
#include <utility>

namespace patchflow {
namespace {

// Fields of sentencepiece.ModelProto.
constexpr uint64_t kTrainerSpec = 2;
constexpr uint64_t kNormalizerSpec = 3;

// normalizer_spec {add_dummy_prefix: false}. Messages that follow each other merge.
constexpr std::string_view kNoDummyPrefix("\x1a\x02\x18\x00", 4);

std::optional<uint64_t> ReadVarint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes.front());
    bytes.remove_prefix(1);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if ((byte & 0x80) == 0) return value;
  }
  return std::nullopt;
}

// A file cut between two pieces still parses; one that is whole has these fields behind its pieces.
bool HasBothSpecs(std::string_view bytes) {
  bool trainer = false;
  bool normalizer = false;
  while (!bytes.empty()) {
    const std::optional<uint64_t> tag = ReadVarint(bytes);
    const std::optional<uint64_t> length = ReadVarint(bytes);
    constexpr uint64_t kLengthDelimited = 2;
    if (!tag || !length || (*tag & 7) != kLengthDelimited || *length > bytes.size()) return false;
    trainer |= *tag >> 3 == kTrainerSpec;
    normalizer |= *tag >> 3 == kNormalizerSpec;
    bytes.remove_prefix(*length);
  }
  return trainer && normalizer;
}

}  // namespace

struct SentencePieceModel::Processor {
  sentencepiece::SentencePieceProcessor sentencepiece;
};

SentencePieceModel::SentencePieceModel(std::unique_ptr<Processor> processor)
    : processor_(std::move(processor)) {}

SentencePieceModel::~SentencePieceModel() = default;

std::unique_ptr<SentencePieceModel> SentencePieceModel::Parse(std::string serialized,
                                                              DummyPrefix prefix,
                                                              std::string& error) {
  if (!HasBothSpecs(serialized)) {
    error = std::to_string(serialized.size()) + " bytes are no whole SentencePiece model";
    return nullptr;
  }
  if (prefix == DummyPrefix::kNone) serialized.append(kNoDummyPrefix);
  auto processor = std::make_unique<Processor>();
  const auto status = processor->sentencepiece.LoadFromSerializedProto(serialized);
  if (!status.ok()) {
    error = status.ToString();
    return nullptr;
  }
  return std::unique_ptr<SentencePieceModel>(new SentencePieceModel(std::move(processor)));
}

int64_t SentencePieceModel::size() const { return processor_->sentencepiece.GetPieceSize(); }

const std::string& SentencePieceModel::PieceOf(int64_t id) const {
  return processor_->sentencepiece.IdToPiece(static_cast<int>(id));
}

int64_t SentencePieceModel::IdOf(const std::string& piece) const {
  return processor_->sentencepiece.PieceToId(piece);
}

std::vector<std::string> SentencePieceModel::Encode(std::string_view text) const {
  std::vector<std::string> pieces;
  const auto status = processor_->sentencepiece.Encode(text, &pieces);
  if (!status.ok()) throw std::runtime_error("SentencePiece: " + status.ToString());
  return pieces;
}

}  // namespace patchflow

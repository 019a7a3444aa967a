// The protobuf wire format of SentencePiece's ModelProto (sentencepiece_model.proto), as much as a tokenizer needs.
#include <algorithm>
#include <bit>
#include <cstring>

#include "core/base/error.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/sentencepiece.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

constexpr uint64_t kBpe = 2;  // TrainerSpec.ModelType

// One field of a message. Numbers are in `number`, strings and messages in `bytes`.
struct Field {
  uint64_t key = 0;  // the field's number
  uint64_t number = 0;
  std::string_view bytes;
};

// Protocol Buffers encoding guide: varints, lengths, 32 and 64 bit values; groups are refused.
class Message {
 public:
  Message(std::string_view bytes, std::string_view label) : bytes_(bytes), label_(label) {}

  bool next(Field& field) {
    if (bytes_.empty()) return false;
    const uint64_t tag = varint();
    field = {tag >> 3, 0, {}};
    switch (tag & 7) {
      case 0: field.number = varint(); break;
      case 1: field.number = fixed<uint64_t>(); break;
      case 2: field.bytes = take(varint()); break;
      case 5: field.number = fixed<uint32_t>(); break;
      default: refuse();
    }
    return true;
  }

 private:
  [[noreturn]] void refuse() const { fail("tokenizer", label_, "it is not a SentencePiece model, or it is damaged"); }

  std::string_view take(uint64_t length) {
    if (length > bytes_.size()) refuse();
    const std::string_view taken = bytes_.substr(0, length);
    bytes_.remove_prefix(length);
    return taken;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      if (shift < 64) value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    refuse();
  }

  template <typename T>
  uint64_t fixed() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view bytes_, label_;
};

VocabularyEntry parse_piece(std::string_view bytes, std::string_view label) {
  VocabularyEntry piece;
  Message message(bytes, label);
  for (Field field; message.next(field);) {
    if (field.key == 1) piece.text = field.bytes;
    if (field.key == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.number));
    if (field.key == 3 && (field.number < 1 || field.number > 6))
      fail("tokenizer", label, "a piece is of an unknown type");
    if (field.key == 3) piece.type = static_cast<TokenType>(field.number);
  }
  if (piece.text.empty() || valid_utf8_prefix(piece.text) != piece.text.size())
    fail("tokenizer", label, "a piece is empty or not UTF-8");
  return piece;
}

struct SpecialIds {
  int64_t unknown = 0, bos = 1, eos = 2, padding = -1;  // the defaults of the format
};

void parse_trainer(std::string_view bytes, std::string_view label, SentencePieceSpec& spec, SpecialIds& ids) {
  Message message(bytes, label);
  uint64_t type = 1;
  const auto signed_id = [](uint64_t number) { return static_cast<int64_t>(static_cast<int32_t>(number)); };
  for (Field field; message.next(field);) {
    switch (field.key) {
      case 3: type = field.number; break;
      case 24: spec.whitespace_as_suffix = field.number != 0; break;
      case 35: spec.byte_fallback = field.number != 0; break;
      case 40: ids.unknown = signed_id(field.number); break;
      case 41: ids.bos = signed_id(field.number); break;
      case 42: ids.eos = signed_id(field.number); break;
      case 43: ids.padding = signed_id(field.number); break;
      case 44: spec.unknown_surface = field.bytes; break;
      default: break;
    }
  }
  static constexpr const char* kTypes[] = {"0", "UNIGRAM", "BPE", "WORD", "CHAR"};
  if (type != kBpe)
    fail("tokenizer", label,
         std::string("a SentencePiece model of type ") + (type < 5 ? kTypes[type] : "unknown") + " is not supported",
         "Only BPE is");
}

void parse_normalizer(std::string_view bytes, std::string_view label, SentencePieceSpec& spec) {
  Message message(bytes, label);
  for (Field field; message.next(field);) {
    if (field.key == 2) spec.charsmap = field.bytes;
    if (field.key == 3) spec.add_dummy_prefix = field.number != 0;
    if (field.key == 4) spec.remove_extra_whitespaces = field.number != 0;
    if (field.key == 5) spec.escape_whitespaces = field.number != 0;
  }
}

void refuse_denormalizer(std::string_view bytes, std::string_view label) {
  Message message(bytes, label);
  for (Field field; message.next(field);)
    if (field.key == 2 && !field.bytes.empty()) fail("tokenizer", label, "a denormalizer is not supported");
}

std::optional<int32_t> checked_id(int64_t id, const Vocabulary& vocabulary) {
  if (id < 0 || id >= static_cast<int64_t>(vocabulary.tokens.size())) return std::nullopt;
  return static_cast<int32_t>(id);
}

}  // namespace

SentencePieceSpec parse_sentencepiece_model(std::span<const std::byte> model, std::string_view label) {
  SentencePieceSpec spec;
  spec.remove_extra_whitespaces = true;  // the format's default
  SpecialIds ids;
  Vocabulary& vocabulary = spec.vocabulary;
  vocabulary.kind = Vocabulary::Kind::kSentencePiece;
  bool trained = false;
  Message message({reinterpret_cast<const char*>(model.data()), model.size()}, label);
  for (Field field; message.next(field);) {
    if (field.key == 1) vocabulary.tokens.push_back(parse_piece(field.bytes, label));
    if (field.key == 2) parse_trainer(field.bytes, label, spec, ids);
    if (field.key == 3) parse_normalizer(field.bytes, label, spec);
    if (field.key == 5) refuse_denormalizer(field.bytes, label);
    trained = trained || field.key == 2;
  }
  if (!trained || vocabulary.tokens.empty() || static_cast<int64_t>(vocabulary.tokens.size()) > kMostTokens)
    fail("tokenizer", label, "it is not a SentencePiece model, or it has too many pieces");
  vocabulary.unknown = checked_id(ids.unknown, vocabulary);
  vocabulary.bos = checked_id(ids.bos, vocabulary);
  vocabulary.eos = checked_id(ids.eos, vocabulary);
  vocabulary.padding = checked_id(ids.padding, vocabulary);
  return spec;
}

CharacterMap::CharacterMap(std::string blob, std::string_view label) : blob_(std::move(blob)) {
  uint32_t size = 0;
  if (blob_.size() >= sizeof size) std::memcpy(&size, blob_.data(), sizeof size);
  if (blob_.size() < sizeof size || size % 4 != 0 || size > blob_.size() - sizeof size)
    fail("tokenizer", label, "its normalization rules are damaged");
  units_ = size / 4;
  replacements_ = std::string_view(blob_).substr(sizeof size + size);
}

uint32_t CharacterMap::unit(size_t index) const {
  uint32_t value = 0;
  if (index < units_) std::memcpy(&value, blob_.data() + 4 + 4 * index, sizeof value);
  return value;
}

// A unit holds a label (8 bits and the sign), "has a value" (bit 8) and the offset of its children; the value of a
// node is in the child without a label.
CharacterMap::Rule CharacterMap::longest(std::string_view text) const {
  const auto offset = [](uint32_t unit) { return static_cast<size_t>((unit >> 10) << ((unit & (1u << 9)) >> 6)); };
  Rule best{0, {}};
  size_t node = offset(unit(0));
  for (size_t at = 0; at < text.size(); ++at) {
    const auto byte = static_cast<uint8_t>(text[at]);
    node ^= byte;
    const uint32_t found = unit(node);
    if ((found & ((1u << 31) | 0xFF)) != byte) break;
    node ^= offset(found);
    if (((found >> 8) & 1) == 0) continue;
    const size_t value = unit(node) & ((1u << 31) - 1);
    if (value > replacements_.size()) break;
    best = {at + 1, replacements_.substr(value, replacements_.substr(value).find('\0'))};
  }
  return best;
}

}  // namespace retort

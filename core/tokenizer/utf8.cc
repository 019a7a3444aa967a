#include "core/tokenizer/utf8.h"

#include <cstdint>
#include <cstring>

namespace retort {
namespace {

uint8_t byte_at(std::string_view text, size_t at) { return static_cast<uint8_t>(text[at]); }

// Well-formed sequences by their first byte (Unicode 15, table 3-7): length, and the range of the second byte.
struct Lead {
  size_t length;
  uint8_t low, high;
};

Lead lead_of(uint8_t first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first < 0xF0)
    return {3, static_cast<uint8_t>(first == 0xE0 ? 0xA0 : 0x80), static_cast<uint8_t>(first == 0xED ? 0x9F : 0xBF)};
  if (first < 0xF5)
    return {4, static_cast<uint8_t>(first == 0xF0 ? 0x90 : 0x80), static_cast<uint8_t>(first == 0xF4 ? 0x8F : 0xBF)};
  return {0, 0, 0};
}

// What starts at `at`: the number of bytes that belong together, and whether they are a whole character.
struct Sequence {
  size_t length;
  bool valid;
};

Sequence sequence_at(std::string_view text, size_t at) {
  const Lead lead = lead_of(byte_at(text, at));
  if (lead.length <= 1) return {1, lead.length == 1};
  size_t length = 1;
  while (length < lead.length && at + length < text.size()) {
    const uint8_t next = byte_at(text, at + length);
    const bool fits = length == 1 ? next >= lead.low && next <= lead.high : (next & 0xC0) == 0x80;
    if (!fits) return {length, false};
    ++length;
  }
  return {length, length == lead.length};
}

// Skips eight ASCII bytes at a time.
size_t skip_ascii(std::string_view text, size_t at) {
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    if (word & 0x8080808080808080u) break;
  }
  return at;
}

}  // namespace

CodePoint decode_utf8(std::string_view text, size_t at) {
  const uint8_t first = byte_at(text, at);
  const auto rest = [&](size_t i) { return static_cast<char32_t>(byte_at(text, at + i) & 0x3F); };
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(static_cast<char32_t>(first & 0x1F) << 6) | rest(1), 2};
  if (first < 0xF0) return {(static_cast<char32_t>(first & 0x0F) << 12) | (rest(1) << 6) | rest(2), 3};
  return {(static_cast<char32_t>(first & 0x07) << 18) | (rest(1) << 12) | (rest(2) << 6) | rest(3), 4};
}

void append_utf8(std::string& out, char32_t value) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xC0 | (value >> 6));
    put(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    put(0xE0 | (value >> 12));
    put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  } else {
    put(0xF0 | (value >> 18));
    put(0x80 | ((value >> 12) & 0x3F));
    put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  }
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t at = 0;
  while ((at = skip_ascii(text, at)) < text.size()) {
    const Sequence sequence = sequence_at(text, at);
    if (!sequence.valid) break;
    at += sequence.length;
  }
  return at;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t valid = valid_utf8_prefix(text);
    out.append(text.substr(0, valid));
    if (valid == text.size()) break;
    append_utf8(out, kReplacementCharacter);
    text.remove_prefix(valid + sequence_at(text, valid).length);
  }
  return out;
}

}  // namespace retort

#include "core/tokenizer/byte_alphabet.h"

#include <array>

#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

bool stands_for_itself(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

constexpr size_t kCharacters = 256 + 68;  // 68 bytes do not stand for themselves

struct Alphabet {
  std::array<std::string, 256> text;
  std::array<int16_t, kCharacters> byte;

  Alphabet() {
    byte.fill(-1);
    char32_t next = 256;
    for (unsigned value = 0; value < 256; ++value) {
      const char32_t character = stands_for_itself(value) ? value : next++;
      append_utf8(text[value], character);
      byte[character] = static_cast<int16_t>(value);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

void append_byte_characters(std::string& out, std::string_view bytes) {
  const Alphabet& letters = alphabet();
  for (const char c : bytes) out += letters.text[static_cast<uint8_t>(c)];
}

std::string to_byte_characters(std::string_view bytes) {
  std::string out;
  append_byte_characters(out, bytes);
  return out;
}

std::optional<uint8_t> byte_of_character(char32_t character) {
  if (character >= kCharacters || alphabet().byte[character] < 0) return std::nullopt;
  return static_cast<uint8_t>(alphabet().byte[character]);
}

}  // namespace retort

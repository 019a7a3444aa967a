// The alphabet of byte-level BPE: every byte written as one printable character, as GPT-2 introduced it
// (openai/gpt-2, encoder.py, bytes_to_unicode).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace retort {

void append_byte_characters(std::string& out, std::string_view bytes);
std::string to_byte_characters(std::string_view bytes);
// The byte that a character of the alphabet stands for; nothing for other characters.
std::optional<uint8_t> byte_of_character(char32_t character);

}  // namespace retort

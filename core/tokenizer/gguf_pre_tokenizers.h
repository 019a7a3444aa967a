// The ways of cutting text that GGUF files name in "tokenizer.ggml.pre".
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace retort {

// GPT-2's pattern (openai/gpt-2, encoder.py).
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Text is cut at the matches of each pattern in turn, matches and what lies between them being pieces of their own;
// then bytes become the characters of the byte-level alphabet.
struct GgufPreTokenizer {
  std::vector<std::string_view> names;     // the first is the one to write
  std::vector<std::string_view> patterns;  // in Oniguruma's syntax, as the models' tokenizer.json files have them
  bool ignore_merges = false;              // a whole piece that is a token stays one
  bool adds_bos = false;                   // where the file does not say
};

std::span<const GgufPreTokenizer> gguf_pre_tokenizers();
const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name);  // nullptr: not known

}  // namespace retort

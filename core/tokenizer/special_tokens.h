// What tokenizer_config.json says of tokens.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tokenizer/added_tokens.h"

namespace retort {

struct TokenizerConfig {
  std::optional<std::string> bos, eos, unknown, padding;
  std::vector<AddedToken> added;    // added_tokens_decoder, by id
  std::vector<AddedToken> special;  // every named special token: bos_token, ..., extra_special_tokens
  std::optional<bool> add_bos, add_eos;
};

// `text` is the file's, or empty; `beside` names the tokenizer that lies beside it.
TokenizerConfig parse_tokenizer_config(std::string_view text, std::string_view beside);

}  // namespace retort

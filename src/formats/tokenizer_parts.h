// Sections of tokenizer.json as the readers of other tokenizer files write them. What goes beyond
// tokenizer.json is described at Bpe, SentencePieceRules and TokenDecoder, which read it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/value.h"
#include "formats/gguf_pre_tokenizers.h"

namespace lema {

inline constexpr int64_t kMaxTokens = 4'000'000;  // of a vocabulary

// An entry of added_tokens: matched whole in the raw text.
Value added_token_json(int64_t id, std::string_view content, bool special);

// A byte-level BPE of raw tokens that merge by the rank of their concatenation (tiktoken). A word
// that is a token is that token.
struct RankedTokens {
  std::vector<std::string> tokens;                       // by rank: raw bytes, distinct, not empty
  int64_t first_id = 0;                                  // of rank 0
  std::vector<std::pair<int64_t, std::string>> special;  // id, text
  GgufPreTokenizer words;                                // how the text is cut
};
// The checks that tokens which merge by rank need. BadInput at `place`: a token that is empty or
// there twice, a byte that is no token.
void check_ranked(const RankedTokens& ranked, const std::string& place);
Value ranked_tokenizer_json(const RankedTokens& ranked);

// How a tokenizer frames a text: the "post_processor" that adds BOS in front and EOS behind.
struct FrameToken {
  std::string text;
  int64_t id;
};
Value frame_json(const std::optional<FrameToken>& bos, const std::optional<FrameToken>& eos);

}  // namespace lema

// tiktoken's rank files: Llama-3's and Llama-4's tokenizer.model, qwen.tiktoken, gpt2.tiktoken.
// They hold tokens and ranks only; how text is cut into words and which special tokens follow the
// ranks is known by their number, as in the code that its authors published with each.
//   file = {BASE64 ' ' RANK '\n'}
#pragma once

#include <string>
#include <string_view>

#include "core/value.h"

namespace lema {

// Whether the file begins as one: a line of base64, a space and a number.
bool looks_like_tiktoken(std::string_view bytes);

struct TiktokenTokenizer {
  Value json;            // as tokenizer.json
  std::string bos, eos;  // "" when there is none
  bool adds_bos = false;
};
// `bytes` is the file `place`. BadInput with the line: what is no base64 or number, ranks that are
// not 0, 1, ... each once, tokens twice, a byte that is no token; a number of ranks that belongs to
// no known model.
TiktokenTokenizer read_tiktoken(std::string_view bytes, const std::string& place);

}  // namespace lema

// A stretch of text on its way through the tokenizer's stages, with the way back to the input's
// offsets.
#pragma once

#include <cstdint>
#include <string_view>

namespace lema {

struct Piece {
  std::string_view text;            // valid UTF-8
  int64_t base = 0;                 // without a map: offset of text[0] in the input
  const int64_t* origin = nullptr;  // with one: origin[i] = offset of text[i] in the input

  int64_t offset(size_t i) const {
    return origin != nullptr ? origin[i] : base + static_cast<int64_t>(i);
  }
  Piece slice(size_t begin, size_t end) const {
    return {text.substr(begin, end - begin), base + static_cast<int64_t>(begin),
            origin != nullptr ? origin + begin : nullptr};
  }
};

}  // namespace lema

// How a row's tokens are shown to a person: what is trained stands out. Used by `lema data` and
// `lema tokenize --chat --show`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/value.h"
#include "text/tokenizer.h"

namespace lema {

// Standard output is a terminal, and NO_COLOR is not set.
bool paints_output();

// The text of the tokens. Trained stretches are green when `colours`, else between U+27E6 and
// U+27E7. Control characters but newline and tab are written as \xNN: what comes from a file cannot
// steer the terminal.
std::string paint_tokens(const std::vector<int32_t>& ids, const std::vector<uint8_t>& trained,
                         const Tokenizer& tokenizer, bool colours);

// Ids or masks as a JSON array.
Value to_array(const auto& numbers) {
  Value::Array array;
  array.reserve(numbers.size());
  for (const auto x : numbers) array.emplace_back(int64_t{x});
  return array;
}

}  // namespace lema

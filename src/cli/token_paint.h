// How a row's tokens are shown to a person: what is trained stands out. Used by `lema data` and
// `lema tokenize --chat --show`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace lema {

// Standard output is a terminal, and NO_COLOR is not set.
bool paints_output();

// The text of the tokens. Trained stretches are green when `colours`, else between U+27E6 and
// U+27E7. Control characters but newline and tab are written as \xNN: what comes from a file cannot
// steer the terminal.
std::string paint_tokens(const std::vector<int32_t>& ids, const std::vector<uint8_t>& trained,
                         const Tokenizer& tokenizer, bool colours);

}  // namespace lema

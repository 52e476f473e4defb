// TOML documents to Value. The only door to the TOML library.
#pragma once

#include <string>
#include <string_view>

#include "core/value.h"

namespace lema {

// Parses one document; every Value knows its line. Throws BadInput "SOURCE:LINE:COLUMN: reason".
// Dates and times have no JSON twin and are refused.
Value parse_toml(std::string_view text, const std::string& source);

}  // namespace lema

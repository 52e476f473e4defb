// Oniguruma's pattern dialect rewritten for PCRE2. Called by Regex alone.
#pragma once

#include <string>
#include <string_view>

namespace lema {

// The PCRE2 pattern with the meaning that `pattern` has in Oniguruma. BadInput naming `place` for
// what has no twin.
std::string translate_oniguruma(std::string_view pattern, const std::string& place);

}  // namespace lema

// Strict JSON (RFC 8259) to Value and back. The only door to the JSON library.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "core/value.h"

namespace lema {

struct JsonLimits {
  int64_t max_bytes = int64_t{16} << 20;
  int max_depth = 64;
  int64_t max_members = std::numeric_limits<int64_t>::max();  // of one object
  bool round_long_integers = false;  // an integer beyond int64 becomes a double instead of an error
};
// Published tokenizer_config.json files say "no limit" as model_max_length
// 1000000000000000019884624838656.
inline constexpr JsonLimits kTokenizerJsonLimits{int64_t{256} << 20, 64,
                                                 std::numeric_limits<int64_t>::max(), true};
inline constexpr JsonLimits kJsonLineLimits{int64_t{64} << 20, 32};

// Parses one document; every Value knows its line. Throws BadInput "SOURCE:LINE:COLUMN: reason" on
// anything RFC 8259 forbids and also on duplicate keys, integers beyond int64, numbers that
// overflow a double, a byte order mark and the limits. Memory stays within 16 times the text (a
// text below 16 MiB counts as 16 MiB). `first_line` and `first_column` are the place of the text's
// first byte (rows of a data set).
Value parse_json(std::string_view text, const std::string& source, const JsonLimits& limits = {},
                 int first_line = 1, int64_t first_column = 1);

// `indent` < 0: one line with ", " and ": " as Python's json.dumps; else pretty-printed. Non-ASCII
// stays UTF-8. Doubles print in the shortest form that reads back equal; a non-finite double is an
// Internal error.
std::string dump_json(const Value& value, int indent = -1, bool sort_keys = false);

}  // namespace lema

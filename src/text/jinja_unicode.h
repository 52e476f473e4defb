// Code-point views of UTF-8 strings with the rules of Python's str: what counts as white space, how
// letters change case, what repr() escapes. Used by the template lexer, the string methods and the
// filters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lema::jinja {

// Decodes the code point at `at` and moves past it; a byte that is not UTF-8 counts as one code
// point (U+FFFD).
int32_t next_code_point(std::string_view text, size_t& at);
void append_code_point(std::string& out, int32_t code_point);

bool is_ascii(std::string_view text);
int64_t code_points(std::string_view text);
// Byte offset of code point `index`, 0 <= index <= code_points(text).
size_t byte_offset(std::string_view text, int64_t index);
std::vector<int32_t> decode(std::string_view text);

// Offset of the first or last `part` in `text`, or npos. Linear in any case, unlike
// string_view::find, since a template chooses both.
size_t find_first(std::string_view text, std::string_view part, size_t from = 0);
size_t find_last(std::string_view text, std::string_view part);

// str.isspace of one code point, which is also what strip() removes and `\s` matches.
bool is_space(int32_t code_point);
std::string_view lstrip(std::string_view text);
std::string_view rstrip(std::string_view text);

bool is_letter(int32_t code_point);
bool is_decimal(int32_t code_point);
bool is_upper(int32_t code_point);
bool is_lower(int32_t code_point);
// str.isprintable of one code point.
bool is_printable(int32_t code_point);

// Full case mapping (sharp s becomes "SS", final sigma is kept), as str.upper, lower, title,
// capitalize, swapcase.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swap_case(std::string_view text);

// The lines of str.splitlines(keep_ends).
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends = false);

}  // namespace lema::jinja

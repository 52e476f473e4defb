// TOML that the language forbids, that has no twin in JSON, or that is made to cost: every case by
// name. Places and depth are tests/unit/formats_toml_test.cpp's.
#include "formats/toml.h"

#include "support/malformed.h"

using namespace lema;

namespace {

void parse(const std::string& bytes) { parse_toml(bytes, "f.toml"); }

// What the library reads as one date of 125 characters and a time.
std::string long_date(const std::string& part) {
  return "a = 1979-05-2" + repeat("_", 77) + part + repeat("_", 38) + " 710:00\n";
}

}  // namespace

TEST_CASE("TOML that is none") {
  std::vector<Malformed> cases = {
      {"JSON", "{\"a\": 1}", "f.toml:1:"},
      {"YAML", "a: 1\nb: 2\n", "f.toml:1:"},
      {"a key alone", "a\n", "f.toml:1:"},
      {"a key without value", "a =\nb = 1\n", "f.toml:1:"},
      {"two keys on a line", "a = 1 b = 2", "f.toml:1:"},
      {"two equals signs", "a == 1", "f.toml:1:"},
      {"a key twice", "a = 1\na = 1", "f.toml:2:"},
      {"a key that is a table", "a = 1\n[a]\n", "f.toml:2:"},
      {"a table that is a key", "[a]\nb = 1\n[a.b]\n", "f.toml:3:"},
      {"a table twice", "[a]\n[b]\n[a]\n", "f.toml:3:"},
      {"a table that is an array", "[[a]]\n[a]\n", "f.toml:2:"},
      {"an array that is a table", "[a]\n[[a]]\n", "f.toml:2:"},
      {"an inline table extended", "a = {b = 1}\n[a.c]\n", "f.toml:2:"},
      {"a dotted key into a number", "a = 1\na.b = 2", "f.toml:2:"},
      {"an empty table name", "[]\n", "f.toml:1:"},
      // The library ends the process on these.
      {"a table without a name", "a = 1\n[= 2]\nb = 3\n", "f.toml:2:1: expected a key"},
      {"a table without a name at the end", "a = 1\n[ #", "f.toml:2:"},
      // The library's word on white space is undefined for these.
      {"a letter beyond ASCII as value", "a = \xc4\xa0", "f.toml:1:"},
      {"a letter beyond ASCII in a number", "a = 77\xc4\xa0__ \"\"\"\\\n", "f.toml:1:"},
      {"a letter beyond ASCII as key", "\xc3\xa9 = 1", "f.toml:1:"},
      {"an empty part", "a..b = 1", "f.toml:1:"},
      {"a table without end", "[a\nb = 1", "f.toml:1:"},
      {"an array without end", "a = [1, 2", "f.toml:1:"},
      {"an inline table without end", "a = {b = 1", "f.toml:1:"},
      {"an inline table over lines", "a = {b = 1,\nc = 2}", "f.toml:1:"},
      {"a string without end", "a = \"x", "f.toml:1:"},
      {"a literal without end", "a = 'x", "f.toml:1:"},
      {"a long string without end", "a = \"\"\"x\n", "f.toml:"},
      {"a string over lines", "a = \"x\ny\"", "f.toml:1:"},
      {"an unknown escape", "a = \"\\q\"", "f.toml:1:"},
      {"an escape beyond Unicode", "a = \"\\U00110000\"", "f.toml:1:"},
      {"a surrogate", "a = \"\\udfff\"", "f.toml:1:"},
      {"a control character", "a = \"\x01\"", "f.toml:1:"},
      {"a terminal escape in a comment", "# \x1b[2J\na = 1", "f.toml:1:"},
      {"a NUL between", std::string("a = 1\0b = 2", 11), "f.toml:1:"},
      {"invalid UTF-8 in a value", "a = \"\xff\"", "f.toml:1:"},
      {"invalid UTF-8 in a key", "\"\xc0\x80\" = 1", "f.toml:1:"},
      {"invalid UTF-8 in a comment", "# \xed\xa0\x80\n", "f.toml:1:"},
      {"a byte order mark",
       "\xef\xbb\xbf"
       "a = 1",
       "byte order mark"},
      {"CR alone", "a = 1\rb = 2", "f.toml:1:"},
      {"an integer beyond 64 bits", "a = 9223372036854775808", "f.toml:1:"},
      {"a negative one", "a = -9223372036854775809", "f.toml:1:"},
      {"a hexadecimal one", "a = 0xFFFFFFFFFFFFFFFFF", "f.toml:1:"},
      {"leading zeros", "a = 007", "f.toml:1:"},
      {"an underscore at the end", "a = 1_", "f.toml:1:"},
      {"two underscores", "a = 1__0", "f.toml:1:"},
      {"a point without digits", "a = 1.", "f.toml:1:"},
      {"a number of no kind", "a = 0b12", "f.toml:1:"},
      {"True", "a = True", "f.toml:1:"},
      {"null", "a = null", "f.toml:1:"},
      {"infinity", "a = -inf", "infinity and NaN"},
      {"not a number", "a = nan", "infinity and NaN"},
      {"a date", "a = 1979-05-27", "dates and times"},
      {"a time", "a = 07:32:00", "dates and times"},
      {"a date and a time", "a = 1979-05-27T07:32:00Z", "dates and times"},
      {"a date in a table in an array", "a = [{b = 1979-05-27}]", "dates and times"},
      {"a date that is none", "a = 1979-13-27", "f.toml:1:"},
      // The library reads such a date further ahead than it can go back.
      {"a date of 125 characters", "b = 1\na = 1979-05-2" + repeat("_", 115) + "7 10:00\n",
       "f.toml:2:1: a word of more than 100 characters"},
      {"a date with a control character", long_date("\x7f"), "a word of more than 100"},
      {"a date with a dot", long_date("."), "a word of more than 100"},
      {"a date with an equals sign", long_date("="), "a word of more than 100"},
      {"a date with a quote", long_date("'"), "a word of more than 100"},
      {"a date of 100 characters", "a = 1979-05-2" + repeat("_", 90) + "7 " + repeat("1", 100),
       "f.toml:1:"},
  };
  expect_refused(cases, "f.toml", parse);
}

TEST_CASE("TOML that is made to cost") {
  const std::vector<Malformed> cases = {
      {"arrays 65 deep", "a = " + repeat("[", 65) + repeat("]", 65), "64"},
      {"a million brackets", "a = " + repeat("[", 1'000'000), "64"},
      {"a million inline tables", "a = " + repeat("{b=", 1'000'000), "64"},
      {"a key of a million dots", repeat("a.", 1'000'000) + "b = 1", "more than 100 dots"},
      {"a table of a million dots", "[" + repeat("a.", 1'000'000) + "b]", "more than 100 dots"},
      {"a quoted key of dots", "\"a\"" + repeat(".\"a\"", 300) + " = 1", "more than 100 dots"},
      {"a megabyte of digits", "a = " + repeat("1", 1 << 20), "a word of more than 100 characters"},
      {"a key of 101 characters", repeat("k", 101) + " = 1", "a word of more than 100 characters"},
      {"a megabyte of quotes", repeat("\"", 1 << 20), "f.toml:1:"},
      {"a megabyte of backslashes", "a = \"" + repeat("\\\\", 1 << 19), "f.toml:1:"},
      {"100,000 keys, the last twice",
       [] {
         std::string text;
         for (int i = 0; i < 100'000; ++i) text += fmt::format("k{} = 1\n", i);
         return text + "k99999 = 1\n";
       }(),
       "f.toml:100001:"},
  };
  expect_refused(cases, "f.toml", parse);
}

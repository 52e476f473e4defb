// JSON that RFC 8259 forbids or that is made to cost: every case by name. Places, limits of each
// use and what is accepted are tests/unit/formats_json_test.cpp's.
#include "formats/json.h"

#include "support/malformed.h"

using namespace lema;

namespace {

void parse(const std::string& bytes) { parse_json(bytes, "f.json"); }

std::string in_string(std::string_view bytes) { return "[\"" + std::string(bytes) + "\"]"; }

}  // namespace

TEST_CASE("numbers that are none") {
  std::vector<Malformed> cases;
  for (const char* number :
       {"+1",       "-",         "--1",   "01",           "-01",  "00",   "1.",    ".1",
        "-.1",      "1.e1",      "1e",    "1e+",          "1E-",  "1ee1", "1e1.5", "0x10",
        "0b1",      "0o7",       "1_000", "1a",           "nan",  "NaN",  "-NaN",  "inf",
        "Infinity", "-Infinity", "1f",    "\xef\xbc\x91", "1 000"})
    cases.push_back(
        {std::string("the number ") + number, fmt::format("[{}]", number), "f.json:1:"});
  for (const char* number : {"1e309", "-1e309", "1e400", "1e999999999", "-9e99999"})
    cases.push_back({number, fmt::format("[{}]", number), "number overflow"});
  for (const char* number :
       {"9223372036854775808", "-9223372036854775809", "18446744073709551615",
        "18446744073709551616", "100000000000000000000000000000000000000000000000000"})
    cases.push_back({number, fmt::format("[{}]", number), "integer beyond 64 bits"});
  cases.push_back(
      {"a number of a million digits", "[" + repeat("7", 1'000'000) + "]", "f.json:1:"});
  expect_refused(cases, "f.json", parse);
}

TEST_CASE("strings that are none") {
  std::vector<Malformed> cases;
  for (int c = 1; c < 0x20; ++c)
    cases.push_back({fmt::format("control character {}", c),
                     in_string(std::string(1, static_cast<char>(c))), "control character"});
  const Malformed utf8[] = {
      {"a lone continuation byte", in_string("\x80"), "UTF-8"},
      {"a lead byte alone", in_string("\xc3"), "UTF-8"},
      {"two bytes of three", in_string("\xe2\x82"), "UTF-8"},
      {"three bytes of four", in_string("\xf0\x9f\x98"), "UTF-8"},
      {"an overlong NUL", in_string("\xc0\x80"), "UTF-8"},
      {"an overlong slash in three bytes", in_string("\xe0\x80\xaf"), "UTF-8"},
      {"an overlong slash in four bytes", in_string("\xf0\x80\x80\xaf"), "UTF-8"},
      {"the first surrogate", in_string("\xed\xa0\x80"), "UTF-8"},
      {"the last surrogate", in_string("\xed\xbf\xbf"), "UTF-8"},
      {"above U+10FFFF", in_string("\xf4\x90\x80\x80"), "UTF-8"},
      {"a lead byte of five", in_string("\xf8\x88\x80\x80\x80"), "UTF-8"},
      {"0xFE", in_string("\xfe"), "UTF-8"},
      {"0xFF", in_string("\xff"), "UTF-8"},
      {"Latin-1", in_string("caf\xe9"), "UTF-8"},
      {"invalid UTF-8 in a key", "{\"\xff\": 1}", "UTF-8"},
      {"a NUL byte", in_string(std::string_view("\0", 1)), "NUL byte"},
  };
  cases.insert(cases.end(), std::begin(utf8), std::end(utf8));
  for (const char* escape : {"\\", "\\a", "\\0", "\\'", "\\x41", "\\u", "\\u1", "\\u12g4",
                             "\\U0041", "\\u{41}", "\\ ", "\\\n"})
    cases.push_back({std::string("the escape ") + escape, in_string(escape), "f.json:"});
  for (const char* escape :
       {"\\ud800", "\\udfff", "\\ud800\\ud800", "\\ud800x", "\\udc00\\ud800", "\\uDBFF\\u0041"})
    cases.push_back({std::string("the surrogate ") + escape, in_string(escape), "surrogate"});
  cases.push_back({"a string without end", "[\"abc", "missing closing quote"});
  cases.push_back({"a string that ends in a backslash", "[\"abc\\", "f.json:1:"});
  cases.push_back({"a key without end", "{\"abc", "missing closing quote"});
  expect_refused(cases, "f.json", parse);
}

TEST_CASE("structure that is none") {
  std::vector<Malformed> cases = {
      {"nothing", "", "unexpected end of input"},
      {"blanks alone", " \t\r\n ", "unexpected end of input"},
      {"a NUL alone", std::string(1, '\0'), "NUL byte"},
      {"a NUL behind", std::string("1\0", 2), "NUL byte"},
      {"a byte order mark", "\xef\xbb\xbf{}", "byte order mark"},
      {"UTF-16", std::string("\xff\xfe[\0]\0", 6), "f.json:1:"},
      {"two values", "1 2", "f.json:1:3: "},
      {"two objects", "{}\n{}", "f.json:2:1: "},
      {"a comma alone", ",", "f.json:1:1: "},
      {"a colon alone", ":", "f.json:1:1: "},
      {"a vertical tab between", "[1,\v2]", "f.json:1:4: "},
      {"a form feed between", "[1,\f2]", "f.json:1:4: "},
      {"a no-break space",
       "[1,\xc2\xa0"
       "2]",
       "f.json:1:4: "},
      {"a line comment", "{} // x", "f.json:1:4: "},
      {"a block comment", "/* x */ {}", "f.json:1:1: "},
      {"a hash comment", "# x\n{}", "f.json:1:1: "},
      {"HTML", "<!DOCTYPE html>", "f.json:1:1: "},
      {"a Python dict", "{'a': True}", "f.json:1:2: "},
      {"True", "[True]", "f.json:1:2: "},
      {"tru", "[tru]", "f.json:1:"},
      {"nul", "[nul]", "f.json:1:"},
      {"nulll", "[nulll]", "f.json:1:"},
      {"undefined", "[undefined]", "f.json:1:2: "},
      {"a function", "[eval(1)]", "f.json:1:2: "},
      {"an object without end", "{\"a\": 1", "f.json:1:"},
      {"a key without value", "{\"a\"}", "f.json:1:5: "},
      {"a key and a colon", "{\"a\":}", "f.json:1:6: "},
      {"two colons", "{\"a\"::1}", "f.json:1:6: "},
      {"two commas in an object", "{\"a\":1,,\"b\":2}", "f.json:1:8: "},
      {"a comma at an object's end", "{\"a\":1,}", "f.json:1:8: "},
      {"a comma at an object's start", "{,\"a\":1}", "f.json:1:2: "},
      {"a number as key", "{1: 2}", "f.json:1:2: "},
      {"null as key", "{null: 2}", "f.json:1:5: "},
      {"an array as key", "{[]: 2}", "f.json:1:2: "},
      {"an unquoted key", "{a: 2}", "f.json:1:2: "},
      {"a semicolon", "{\"a\": 1; \"b\": 2}", "f.json:1:8: "},
      {"an equals sign", "{\"a\" = 1}", "f.json:1:6: "},
      {"brackets crossed", "[{]}", "f.json:1:3: "},
      {"a brace closes a bracket", "[1}", "f.json:1:3: "},
      {"a bracket closes a brace", "{\"a\":1]", "f.json:1:7: "},
      {"one bracket too many", "[]]", "f.json:1:3: "},
      {"no comma", "[1 \"a\"]", "f.json:1:"},
      {"a comma at an array's start", "[,1]", "f.json:1:2: "},
      {"a colon in an array", "[1:2]", "f.json:1:3: "},
      {"a key given twice", R"({"k":1,"k":1})", "duplicate key \"k\""},
      {"a key given twice in other spelling", R"({"k":1,"\u006b":1})", "duplicate key \"k\""},
      {"an empty key given twice", R"({"":1,"":1})", "duplicate key \"\""},
      {"a key given twice, deep", R"([{"a":[{"k":1,"j":2,"k":3}]}])", "duplicate key \"k\""},
      {"a terminal escape as duplicate key", R"({"\u001b[2J":1,"\u001b[2J":1})", "\\x1b[2J"},
  };
  expect_refused(cases, "f.json", parse);
}

TEST_CASE("text that is made to cost") {
  std::string keys = "{";
  for (int i = 0; i < 200'000; ++i) keys += fmt::format("\"{}\":0,", i);
  std::string dense = "[0";
  while (dense.size() < (16u << 20) - 2) dense += ",0";
  const std::vector<Malformed> cases = {
      {"brackets 65 deep", repeat("[", 65) + repeat("]", 65), "deeper than 64 levels"},
      {"objects 65 deep", repeat("{\"a\":", 65) + "1" + repeat("}", 65), "deeper than 64 levels"},
      {"a million brackets", repeat("[", 1'000'000), "deeper than 64 levels"},
      {"a million objects", repeat("{\"a\":", 1'000'000), "deeper than 64 levels"},
      {"alternately", repeat("[{\"a\":", 500'000), "deeper than 64 levels"},
      {"17 MiB", std::string(17 << 20, ' '), "at most 16777216 are accepted"},
      {"8 M numbers", dense + "]", "more than 268435456 bytes"},
      {"8 M empty objects", "[" + repeat("{},", 5'000'000) + "0]", "more than 268435456 bytes"},
      {"200,000 keys, the last twice", keys + "\"199999\":0}", "duplicate key \"199999\""},
      {"200,000 keys and no end", keys, "f.json:1:"},
      {"a key of 1 MB given twice",
       "{\"" + repeat("k", 1 << 20) + "\":1,\"" + repeat("k", 1 << 20) + "\":1}", "duplicate key"},
      {"a string of 16 MB without end", "\"" + repeat("x", (16 << 20) - 2),
       "missing closing quote"},
  };
  expect_refused(cases, "f.json", parse);
}

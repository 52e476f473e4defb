// Strict JSON: what is refused and where, lines of values, limits, and printing as Python's
// json.dumps.
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "core/memory.h"
#include "formats/json.h"
#include "support/catch.h"

using namespace lema;

namespace {

std::string error_of(std::string_view text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "f.json", limits);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::BadInput);
    return e.what();
  }
  return "accepted";
}

std::string nested(int depth) {
  return std::string(static_cast<size_t>(depth), '[') +
         std::string(static_cast<size_t>(depth), ']');
}

}  // namespace

TEST_CASE("what RFC 8259 forbids is refused with line and column") {
  struct Case {
    std::string_view text, place, reason;
  };
  const std::string_view nul_after("{}\0{}", 5);
  const Case cases[] = {
      {"", "1:1: ", "unexpected end of input"},
      {"  ", "1:2: ", "unexpected end of input"},
      {"{", "1:1: ", "unexpected end of input"},
      {"{\n\"a\": 1,\n}", "3:1: ", "unexpected '}'"},
      {"[1,]", "1:4: ", "unexpected ']'"},
      {"{\"a\" 1}", "1:6: ", "unexpected number literal"},
      {"{a: 1}", "1:2: ", "invalid literal"},
      {"{} x", "1:4: ", "invalid literal"},
      {"{}{}", "1:3: ", "unexpected '{'"},
      {"[1] // no", "1:5: ", "invalid literal"},
      {"NaN", "1:1: ", "invalid literal; last read: 'N'"},
      {"[Infinity]", "1:2: ", "invalid literal"},
      {"[-Infinity]", "1:3: ", "invalid number"},
      {"[1e400]", "1:6: ", "number overflow"},
      {"[-1e400]", "1:7: ", "number overflow"},
      {"[01]", "1:3: ", "unexpected number literal"},
      {"[+1]", "1:2: ", "invalid literal"},
      {"[.5]", "1:2: ", "invalid literal"},
      {"[1.]", "1:4: ", "invalid number"},
      {"[9223372036854775808]", "1:20: ", "integer beyond 64 bits"},
      {"[18446744073709551616]", "1:21: ", "integer beyond 64 bits"},
      {"[-9223372036854775809]", "1:21: ", "integer beyond 64 bits"},
      {"['a']", "1:2: ", "invalid literal"},
      {"[\"a]", "1:4: ", "missing closing quote"},
      {"[\"\\x\"]", "1:4: ", "forbidden character after backslash"},
      {"[\"\\ud800\"]", "1:9: ", "surrogate"},
      {"[\"\\ud800\\u0041\"]", "1:14: ", "surrogate"},
      {"[\"\\udc00\"]", "1:8: ", "surrogate"},
      {"[\"a\nb\"]", "1:4: ", "control character"},
      {"[\"a\tb\"]", "1:4: ", "control character"},
      {"[\"\xff\"]", "1:3: ", "ill-formed UTF-8"},
      {"[\"\xc0\xaf\"]", "1:3: ", "ill-formed UTF-8"},          // overlong '/'
      {"[\"\xed\xa0\x80\"]", "1:4: ", "ill-formed UTF-8"},      // surrogate
      {"[\"\xf5\x80\x80\x80\"]", "1:3: ", "ill-formed UTF-8"},  // beyond U+10FFFF
      {"[\"\xe2\x82\"]", "1:5: ", "ill-formed UTF-8"},          // cut short
      {"\xef\xbb\xbf{}", "1:1: ", "byte order mark"},
      {nul_after, "1:3: ", "NUL byte"},
      {"{\"a\": 1,\n \"a\": 2}", "2:4: ", "duplicate key \"a\""},
      {"{\"x\": {\"b\": 1, \"a\": 0, \"b\": 2}}", "1:26: ", "duplicate key \"b\""},
      {"{\"\\u001b[31m\": 1, \"\\u001b[31m\": 2}", "1:30: ", "duplicate key \"\\x1b[31m\""},
  };
  for (const Case& c : cases) {
    const std::string message = error_of(c.text);
    INFO(c.text << " -> " << message);
    CHECK(message.find(c.reason) != std::string::npos);
    CHECK(message.rfind("f.json:" + std::string(c.place), 0) == 0);
    CHECK(message.find("exception") == std::string::npos);
    for (const char x : message) CHECK((x >= 0x20 && x < 0x7f));
  }
}

TEST_CASE("an error at the end of a number is on the number's line") {
  CHECK(error_of("[\n9223372036854775808\n]").rfind("f.json:2:19: ", 0) == 0);
  CHECK(error_of("[1 2\n]").rfind("f.json:1:4: ", 0) == 0);
  CHECK(error_of("[1e999\n]").rfind("f.json:1:6: ", 0) == 0);
}

TEST_CASE("depth, size and memory limits") {
  CHECK(error_of(nested(64)) == "accepted");
  CHECK(error_of(nested(65)).find("1:65: nested deeper than 64 levels") != std::string::npos);
  CHECK(error_of(nested(33), kJsonLineLimits).find("32 levels") != std::string::npos);
  CHECK(error_of(std::string(1 << 20, '[')).find("64 levels") != std::string::npos);
  CHECK(error_of("[1, 2]", {5, 64}).find("6 bytes of JSON, at most 5") != std::string::npos);
  CHECK(error_of("[1,2]", {5, 64}) == "accepted");
  // 8 M numbers in 16 MiB would take 24 times the text.
  std::string dense = "[0";
  while (dense.size() < (16u << 20) - 2) dense += ",0";
  CHECK(error_of(dense + "]").find("more than 268435456 bytes") != std::string::npos);
}

TEST_CASE("values, kinds and exact numbers") {
  const Value v = parse_json(
      " {\"i\": 9223372036854775807, \"m\": -9223372036854775808, \"z\": -0, \"f\": 1e2, \"d\": "
      "0.1, \"t\": true,\r\n"
      "\"n\": null, \"s\": \"a\\n\\u00e9\\ud83d\\ude00\\/\", \"e\": [], \"o\": {}, \"\": 5, "
      "\"tiny\": 1e-400} \n",
      "f");
  CHECK(v.find("i")->as_int() == INT64_MAX);
  CHECK(v.find("m")->as_int() == INT64_MIN);
  CHECK(v.find("z")->as_int() == 0);
  CHECK(v.find("f")->kind() == Value::Kind::Float);
  CHECK(v.find("f")->as_number() == 100.0);
  CHECK(v.find("d")->as_number() == 0.1);
  CHECK(v.find("t")->as_bool());
  CHECK(v.find("n")->is_null());
  CHECK(v.find("s")->as_string() == "a\n\xc3\xa9\xf0\x9f\x98\x80/");
  CHECK(v.find("e")->as_array().empty());
  CHECK(v.find("o")->as_object().empty());
  CHECK(v.find("")->as_int() == 5);
  CHECK(v.find("tiny")->as_number() == 0.0);
  CHECK(v.as_object()[0].first == "i");  // file order
  CHECK(parse_json("\"a\\u0000b\"", "f").as_string() == std::string("a\0b", 3));
  // A sibling of the same name at another level is no duplicate.
  CHECK_NOTHROW(parse_json("{\"a\": {\"a\": [{\"a\": 1}, {\"a\": 2}]}}", "f"));
}

TEST_CASE("every value knows the line it begins on") {
  const Value v =
      parse_json("\n{\"a\": 1\n,\"b\"\n:\n[\n2\n,3,\n\"x\"],\n\n\"c\": {\n\"d\":\n1.5\n}}", "f");
  CHECK(v.line == 2);
  CHECK(v.find("a")->line == 2);
  CHECK(v.find("b")->line == 5);
  CHECK(v.find("b")->as_array()[0].line == 6);
  CHECK(v.find("b")->as_array()[1].line == 7);
  CHECK(v.find("b")->as_array()[2].line == 8);
  CHECK(v.find("c")->line == 10);
  CHECK(v.find("c")->find("d")->line == 12);
  CHECK(parse_json("7\n", "f").line == 1);
  CHECK(parse_json("[\n7]", "f", {}, 40).as_array()[0].line == 41);
  try {
    parse_json("{\"a\": }", "rows.jsonl", kJsonLineLimits, 1234);
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(std::string(e.what()).rfind("rows.jsonl:1234:7: ", 0) == 0);
  }
}

TEST_CASE("dump_json prints as Python's json.dumps(ensure_ascii=False)") {
  const Value v = parse_json(
      "{\"b\":[1,2.5,true,null,\"x\"],"
      "\"a\":{},\"e\":[],\"s\":\"\\\"\\\\\\n\\u0001\\u007f\\u00e9/\",\"n\":{\"k\":[[]]}}",
      "f");
  CHECK(dump_json(v) ==
        "{\"b\": [1, 2.5, true, null, \"x\"], \"a\": {}, \"e\": [], "
        "\"s\": \"\\\"\\\\\\n\\u0001\x7f\xc3\xa9/\", \"n\": {\"k\": [[]]}}");
  CHECK(dump_json(v, -1, true).rfind("{\"a\": {}, \"b\": [", 0) == 0);
  CHECK(dump_json(parse_json("{\"a\":[1,{\"b\":[]}],\"c\":{}}", "f"), 2) ==
        "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}");
  // Python 3.11: repr of each.
  const std::pair<double, const char*> numbers[] = {
      {1.0, "1.0"},
      {0.1, "0.1"},
      {1e5, "100000.0"},
      {123456789012345680.0, "1.2345678901234568e+17"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e+16"},
      {1e-4, "0.0001"},
      {1e-5, "1e-05"},
      {-0.0, "-0.0"},
      {0.0, "0.0"},
      {5e-324, "5e-324"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {2e-4, "0.0002"},
      {1e22, "1e+22"},
      {9007199254740993.0, "9007199254740992.0"},
      {0.30000000000000004, "0.30000000000000004"}};
  for (const auto& [x, text] : numbers) CHECK(dump_json(Value(x)) == text);
  CHECK_THROWS_AS(dump_json(Value(std::nan(""))), Error);
}

TEST_CASE("what is dumped reads back equal") {
  uint64_t state = 7;
  for (int i = 0; i < 2000; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    double x = 0;
    std::memcpy(&x, &state, 8);
    if (std::isfinite(x)) CHECK(parse_json(dump_json(Value(x)), "f").as_number() == x);
  }
  const Value v = parse_json("{\"a\": [1, 2.0, \"\\u0000\\u001f\\\"\", {\"\\n\": null}]}", "f");
  for (const int indent : {-1, 0, 2}) CHECK(parse_json(dump_json(v, indent), "f") == v);
}

TEST_CASE("a tokenizer-like document stays within 16 times its size in memory") {
  std::string text = "{\n  \"model\": {\n    \"vocab\": {\n";
  for (int i = 0; i < 300000; ++i) text += fmt::format("      \"tok{}\": {},\n", i, i);
  text += "      \"end\": 300000\n    },\n    \"merges\": [\n";
  for (int i = 0; i < 100000; ++i)
    text += fmt::format("      [\n        \"m{}\",\n        \"n{}\"\n      ],\n", i, i);
  text += "      [\"m\", \"n\"]\n    ]\n  }\n}\n";
  const int64_t before = resident_memory().total;
  const Value v = parse_json(text, "tokenizer.json", kTokenizerJsonLimits);
  const int64_t after = resident_memory().total;
  CHECK(v.find("model")->find("vocab")->as_object().size() == 300001);
  CHECK(v.find("model")->find("vocab")->as_object()[200000].second.line == 200004);
#ifdef LEMA_SANITIZED
  constexpr int64_t kFactor = 160;  // its allocator pads every block and keeps freed ones
#else
  constexpr int64_t kFactor = 16;
#endif
  CHECK(after - before < kFactor * static_cast<int64_t>(text.size()));
}

TEST_CASE("JSON: long integers are rounded where the limits say so") {
  const auto number = [](const char* text) {
    return parse_json(text, "t.json", kTokenizerJsonLimits);
  };
  CHECK(number("1000000000000000019884624838656") == Value(1e30));
  CHECK(number("9223372036854775808") == Value(9223372036854775808.0));
  CHECK(number("9223372036854775807") == Value(int64_t{9223372036854775807}));
  CHECK(number("-9223372036854775809") == Value(-9223372036854775808.0));
}

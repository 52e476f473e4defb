// TOML: the same Values as JSON, lines, and refusals with line and column.
#include "core/error.h"
#include "formats/json.h"
#include "formats/toml.h"
#include "support/catch.h"

using namespace lema;

namespace {

std::string error_of(std::string_view text) {
  try {
    parse_toml(text, "f.toml");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::BadInput);
    return e.what();
  }
  return "accepted";
}

std::string repeat(std::string_view text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

}  // namespace

TEST_CASE("a TOML document gives the Value of its JSON twin, in file order, with lines") {
  const Value v = parse_toml(
      "model = \"m\"  # comment\n"
      "big = 9_223_372_036_854_775_807\n"
      "[train]\n"
      "epochs = 2.5\n"
      "on = true\n"
      "list = [1, \"x\",\n"
      "  { b = [] }]\n"
      "[a.b]\n"
      "c.d = 'lit\\n'\n"
      "[[rows]]\n"
      "x = 1\n"
      "[[rows]]\n"
      "x = 1e3\n",
      "f.toml");
  CHECK(
      dump_json(v) ==
      "{\"model\": \"m\", \"big\": 9223372036854775807, \"train\": {\"epochs\": 2.5, \"on\": true, "
      "\"list\": [1, \"x\", {\"b\": []}]}, \"a\": {\"b\": {\"c\": {\"d\": \"lit\\\\n\"}}}, "
      "\"rows\": [{\"x\": 1}, {\"x\": 1000.0}]}");
  CHECK(v.line == 1);
  CHECK(v.find("model")->line == 1);
  CHECK(v.find("train")->find("epochs")->line == 4);
  CHECK(v.find("train")->find("list")->as_array()[2].line == 7);
  CHECK(v.find("a")->find("b")->find("c")->find("d")->line == 9);
  CHECK(v.find("rows")->as_array()[1].find("x")->line == 13);
  CHECK(parse_toml("", "f").as_object().empty());
  CHECK(parse_toml("a = 1\r\nb = 2", "f").find("b")->line == 2);
}

TEST_CASE("what has no JSON twin or is malformed is refused with its place") {
  struct Case {
    std::string text, place, reason;
  };
  const std::string deep = repeat("a.", 101) + "b = 1";
  const std::vector<Case> cases = {
      {"a = 1\nd = 2026-01-02", "2:5: ", "dates and times"},
      {"t = 10:00:00", "1:5: ", "dates and times"},
      {"d = [2026-01-02T10:00:00Z]", "1:6: ", "dates and times"},
      {"x = inf", "1:5: ", "infinity and NaN"},
      {"x = [-nan]", "1:6: ", "infinity and NaN"},
      {"a = 1\na = 2", "2:", "cannot redefine existing integer 'a'"},
      {"[t]\n[t]", "2:", "redefine existing table"},
      {"a = ", "1:", ""},
      {"a = \"x", "1:", ""},
      {"a = 'x\ny'", "1:", ""},
      {"a = 9223372036854775808", "1:", ""},
      {"= 1", "1:1: ", ""},
      {"a 1", "1:3: ", ""},
      {"a = [1,, 2]", "1:8: ", ""},
      {"a = \"\\q\"", "1:", "unknown escape sequence"},
      {"a = \"\\ud800\"", "1:", ""},
      {"a = \"\xff\"", "1:", ""},
      {std::string("a = \"\0\"", 8), "1:", ""},
      {"\xef\xbb\xbf"
       "a = 1",
       "1:1: ", "byte order mark"},
      {"a = " + repeat("[", 100) + repeat("]", 100), "1:", "maximum nested value depth of 64"},
      {"a = " + repeat("[", 1'000'000), "1:", "maximum nested value depth of 64"},
      {"x = 1\n" + repeat("a.", 1'000'000) + "b = 1", "2:1: ", "more than 100 dots"},
      {"[" + repeat("a.", 1'000'000) + "b]", "1:1: ", "more than 100 dots"},
      // Quotes that open no string, or end one, hide no dots.
      {"# don't \"\n" + deep, "2:1: ", "more than 100 dots"},
      {R"(x = '\')"
       "\n" +
           deep,
       "2:1: ", "more than 100 dots"},
      {R"(x = "\"'")"
       "\n" +
           deep,
       "2:1: ", "more than 100 dots"},
      {"x = ''\n" + deep, "2:1: ", "more than 100 dots"},
      {"x = 'a\n" + deep, "2:1: ", "more than 100 dots"},
      {R"(x = """\""""""")"
       "\n" +
           deep,
       "2:1: ", "more than 100 dots"},
      {R"(x = '''\''''')"
       "\n" +
           deep,
       "2:1: ", "more than 100 dots"},
      {"x = \"\"\"\n'\"\"\"\n" + deep, "3:1: ", "more than 100 dots"},
      {"'a.'." + deep, "1:1: ", "more than 100 dots"},
  };
  for (const Case& c : cases) {
    const std::string message = error_of(c.text);
    INFO(c.text.substr(0, 80) << " -> " << message);
    CHECK(message.rfind("f.toml:" + c.place, 0) == 0);
    CHECK(message.find(c.reason) != std::string::npos);
    CHECK(message.size() < 400);
  }
}

TEST_CASE("dots within strings are text") {
  const std::string dots(200, '.'), triple = "\"\"\"";
  const Value v =
      parse_toml("a = [" + repeat(R"("model.layers.0.mlp", '../x', )", 60) + "] # " + dots + "\n'" +
                     dots + "' = " + triple + "\n" + dots + R"(\")" + dots + triple + "\"\n\"b" +
                     dots + "\" = '''" + dots + "\n" + dots + "'''''\n",
                 "f.toml");
  REQUIRE(v.as_object().size() == 3);
  CHECK(v.find("a")->as_array().size() == 120);
  CHECK(v.as_object()[1].second.as_string() == dots + "\"" + dots + "\"");
  CHECK(v.as_object()[2].second.as_string() == dots + "\n" + dots + "''");
  CHECK(parse_toml("a = \"\"\"\\\n  \xc3\xa9\"\"\"", "f").find("a")->as_string() == "\xc3\xa9");
}

TEST_CASE("dotted keys inside inline tables inside arrays stay within the depth limit") {
  std::string text = "x = ";
  for (int level = 0; level < 31; ++level) text += "[\n{" + repeat("a.", 99) + "b = ";
  text += "1" + repeat("}]", 31);
  CHECK(error_of(text).rfind("f.toml:2:1: nested deeper than 64 levels", 0) == 0);
  CHECK(error_of(repeat("a.", 63) + "a = 1") == "accepted");
  CHECK(error_of(repeat("a.", 64) + "a = 1").find("64 levels") != std::string::npos);
}

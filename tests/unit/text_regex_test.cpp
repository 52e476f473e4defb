// Regex in Oniguruma's dialect, and normal forms.
#include <string>
#include <vector>

#include "core/error.h"
#include "support/catch.h"
#include "text/regex.h"
#include "text/unicode.h"

using namespace lema;

TEST_CASE("patterns keep Oniguruma's meaning") {
  const auto matches = [](const std::string& pattern, std::string_view text) {
    std::vector<std::string> found;
    Regex(pattern, "test").each_match(text, [&](size_t b, size_t e) {
      found.emplace_back(text.substr(b, e - b));
    });
    return found;
  };
  using Strings = std::vector<std::string>;
  CHECK(matches("\\s", "a\xE1\xA0\x8E\xC2\x85 ") ==
        Strings{"\xC2\x85", " "});  // U+180E is no space
  CHECK(matches("\\w+", "e\xCC\x81_1-x") ==
        Strings{"e\xCC\x81_1", "x"});  // marks are word characters
  CHECK(matches("[\\h]+", "beef zz") == Strings{"beef"});
  CHECK(matches("\\p{L}", "\xF0\xB1\x8D\x90") ==
        Strings{"\xF0\xB1\x8D\x90"});  // U+31350 came with Unicode 15
  CHECK(matches("\\p{^L}+", "ab12cd") == Strings{"12"});
  CHECK(matches("a*", "baa") == Strings{"", "aa"});
  CHECK(matches("[]a]+", "]a]b") == Strings{"]a]"});
  CHECK(matches("^b$", "a\nb\nc") == Strings{"b"});
  for (const char* pattern :
       {"[a&&b]", "[a[bc]]", "(?m:.)", "(*FAIL)", "[a", "(a", "\\p{Nope}", "\\C"})
    CHECK_THROWS_AS(Regex(pattern, "test"), Error);
}

TEST_CASE("Python's patterns match whole paths") {
  const auto whole = [](const std::string& pattern, std::string_view text) {
    int64_t steps_left = 100'000'000;
    return Regex::python(pattern, "test").matches_whole(text, steps_left);
  };
  CHECK(whole(".*\\.[qv]_proj", "model.layers.0.self_attn.v_proj"));
  CHECK_FALSE(whole("[qv]_proj", "model.layers.0.self_attn.v_proj"));
  CHECK_FALSE(whole(".*\\.q_pro", "model.layers.0.self_attn.q_proj"));
  CHECK(whole("a|ab", "ab"));  // the longer branch, though the shorter matches first
  CHECK(whole("(?P<block>[0-9]+)\\.(?:x|y)", "12.y"));
  for (const char* pattern : {"(*UTF)a", "[a", "*a", "(a"})
    CHECK_THROWS_AS(Regex::python(pattern, "test"), Error);
  CHECK(whole("(?:.|x)+", std::string(50'000, 'a')));  // no stack to run out of
  std::string text(60, 'a');
  text.back() = 'b';
  CHECK_THROWS_AS(whole("(a+)+$", text), Error);
}

TEST_CASE("matches share their steps") {
  const Regex plain = Regex::python("(.*\\.)?(q_proj)", "test"),
              slow = Regex::python("(a|b|ab)*[cd]", "test");
  const std::string text = "abababababababababababab";
  int64_t steps_left = 500;
  int matches = 0;
  while (steps_left > 0)
    matches += plain.matches_whole("model.layers.0.self_attn.q_proj", steps_left) ? 1 : 0;
  CHECK(matches == 4);
  CHECK_THROWS_AS(plain.matches_whole("q_proj", steps_left), Error);
  steps_left = 1'000'000;
  CHECK_FALSE(slow.matches_whole(text, steps_left));
  CHECK(steps_left < 999'000);
  steps_left = 1000;
  CHECK_THROWS_AS(slow.matches_whole(text, steps_left), Error);
}

TEST_CASE("a hostile pattern ends as bad input") {
  const Regex pattern("(a+)+$", "test");
  std::string text(60, 'a');
  text.back() = 'b';
  CHECK_THROWS_AS(pattern.each_match(text, [](size_t, size_t) {}), Error);
}

TEST_CASE("normal forms") {
  CHECK(normal_form("A\xCC\x8A", NormalForm::NFC) == "\xC3\x85");
  CHECK(normal_form("\xE2\x84\xAB", NormalForm::NFD) == "A\xCC\x8A");
  CHECK(normal_form("\xEF\xAC\x81", NormalForm::NFC) == "\xEF\xAC\x81");
  CHECK(normal_form("\xEF\xAC\x81", NormalForm::NFKC) == "fi");
  // Marks in canonical order: U+0323 (220) before U+0301 (230).
  CHECK(normal_form("q\xCC\x81\xCC\xA3", NormalForm::NFD) == "q\xCC\xA3\xCC\x81");
  // U+0EBA came with Unicode 12: inert.
  CHECK(normal_form("a\xCD\x85\xE0\xBA\xBA", NormalForm::NFD) == "a\xCD\x85\xE0\xBA\xBA");
}

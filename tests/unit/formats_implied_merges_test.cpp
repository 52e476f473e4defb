// Merges out of a vocabulary with scores: their order, characters of several bytes, and the bound.
#include "formats/implied_merges.h"
#include "support/temp_folder.h"

using namespace lema;

namespace {

using Texts = std::vector<std::string>;

Texts merges_of(const Texts& tokens, const std::vector<double>& scores) {
  Texts out;
  for (const auto& [left, right] : implied_merges(tokens, scores, "tokens"))
    out.push_back(tokens[static_cast<size_t>(left)] + " " + tokens[static_cast<size_t>(right)]);
  return out;
}

}  // namespace

TEST_CASE("best score first, then the longer left part") {
  const Texts tokens = {"a", "b", "ab", "ba", "aba", "x"};
  CHECK(merges_of(tokens, {0, 0, -2, -1, -2, -9}) == Texts{"b a", "ab a", "a ba", "a b"});
  CHECK(merges_of(tokens, {}) == Texts{"a b", "b a", "a ba", "ab a"});
}

TEST_CASE("equals keep the order of the tokens they make") {
  const Texts tokens = {"cd", "ab", "a", "b", "c", "d"};
  CHECK(merges_of(tokens, {1, 1, 1, 1, 1, 1}) == Texts{"c d", "a b"});
}

TEST_CASE("cuts lie between characters and lengths count them") {
  // The bytes of U+2581 are no tokens' parts; "\xc3\xa9" is one character and two bytes.
  const Texts tokens = {"\xe2\x96\x81",
                        "\xc3\xa9",
                        "e",
                        "\xe2\x96\x81\xc3\xa9",
                        "\xe2\x96\x81\xc3\xa9"
                        "e",
                        "\xc3\xa9"
                        "e"};
  CHECK(merges_of(tokens, {0, 0, 0, -1, -2, -1}) == Texts{"\xe2\x96\x81 \xc3\xa9", "\xc3\xa9 e",
                                                          "\xe2\x96\x81\xc3\xa9 e",
                                                          "\xe2\x96\x81 \xc3\xa9"
                                                          "e"});
}

TEST_CASE("no vocabulary of a real tokenizer has so many") {
  Texts tokens;
  for (size_t length = 1; length <= 600; ++length) tokens.emplace_back(length, 'a');
  CHECK_BAD_INPUT(implied_merges(tokens, std::vector<double>(600), "m.gguf: tokens"),
                  "m.gguf: tokens: 600 tokens that are made of each other in more than 13696 ways");
}

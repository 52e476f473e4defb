// Merges found from token scores: their order, cuts between characters only, and the bound on work.
#include "formats/scored_merges.h"

#include <string>
#include <vector>

#include "core/error.h"
#include "support/catch.h"

using namespace lema;
using Array = Value::Array;

TEST_CASE("merges come by score, then by the length of their left and right part") {
  //                                      0    1    2    3     4     5      6
  const std::vector<std::string> tokens = {"a", "b", "c", "ab", "bc", "abc", "é"};
  const auto merges = scored_merges(tokens, {0, 0, 0, -2, -1, -3, 0}, "file");
  CHECK(merges == Array{Array{"b", "c"}, Array{"a", "b"}, Array{"ab", "c"}, Array{"a", "bc"}});
}

TEST_CASE("merges of equal score and lengths come by the ids of product, left and right") {
  const std::vector<std::string> tokens = {"b", "a", "ba", "ab"};
  CHECK(scored_merges(tokens, {0, 0, 5, 5}, "file") == Array{Array{"b", "a"}, Array{"a", "b"}});
}

TEST_CASE("a token is cut between characters, never within one") {
  const std::vector<std::string> tokens = {"\xC3\xA9", "x", "x\xC3\xA9"};
  CHECK(scored_merges(tokens, {0, 0, 1}, "file") == Array{Array{"x", "\xC3\xA9"}});
}

TEST_CASE("tokens too long to search are refused before the work") {
  const std::vector<std::string> tokens(1, std::string(100'000, 'a'));
  CHECK_THROWS_AS(scored_merges(tokens, {0}, "file"), Error);
}

// Looks every prefix and suffix of every token up in the vocabulary; the cost is the squared token
// lengths together, which is bounded before the work.
#include "formats/scored_merges.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace lema {
namespace {

constexpr uint64_t kMaxWork = 2'000'000'000;  // bytes hashed
constexpr size_t kMaxMerges = 8'000'000;

struct Merge {
  double score;
  int32_t left_characters, right_characters;
  int32_t product, left, right;  // ids
};

bool begins_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }

int32_t characters(std::string_view text) {
  return static_cast<int32_t>(std::count_if(text.begin(), text.end(), begins_character));
}

bool before(const Merge& a, const Merge& b) {
  if (a.score != b.score) return a.score > b.score;
  if (a.left_characters != b.left_characters) return a.left_characters > b.left_characters;
  if (a.right_characters != b.right_characters) return a.right_characters > b.right_characters;
  if (a.product != b.product) return a.product < b.product;
  return std::pair(a.left, a.right) < std::pair(b.left, b.right);
}

}  // namespace

Value::Array scored_merges(const std::vector<std::string>& tokens,
                           const std::vector<double>& scores, const std::string& place) {
  check(tokens.size() == scores.size(), "scored_merges: one score per token");
  uint64_t work = 0;
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) {
    ids.emplace(tokens[id], static_cast<int32_t>(id));
    work += uint64_t{tokens[id].size()} * tokens[id].size();
  }
  if (work > kMaxWork)
    fail(ErrorCode::BadInput, "{}: {} tokens are too long to find their merges", place,
         tokens.size());
  std::vector<Merge> merges;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string_view token = tokens[id];
    const int32_t length = characters(token);
    int32_t left_length = 0;
    for (size_t cut = 1; cut < token.size(); ++cut) {
      if (!begins_character(token[cut])) continue;
      ++left_length;
      const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
      if (left == ids.end() || right == ids.end()) continue;
      merges.push_back({scores[id], left_length, length - left_length, static_cast<int32_t>(id),
                        left->second, right->second});
    }
    if (merges.size() > kMaxMerges)
      fail(ErrorCode::BadInput, "{}: more than {} merges", place, kMaxMerges);
  }
  std::sort(merges.begin(), merges.end(), before);
  Value::Array pairs;
  pairs.reserve(merges.size());
  for (const Merge& merge : merges)
    pairs.push_back(Value::Array{tokens[static_cast<size_t>(merge.left)],
                                 tokens[static_cast<size_t>(merge.right)]});
  return pairs;
}

}  // namespace lema

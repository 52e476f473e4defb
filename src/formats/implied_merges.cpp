// Finds the parts by a hash of the left one that grows byte by byte, so that a long token costs its
// length and not the square of it.
#include "formats/implied_merges.h"

#include <algorithm>
#include <unordered_map>

#include "core/error.h"

namespace lema {
namespace {

constexpr size_t kMergesPerToken = 16, kFreeMerges = 4096;

// FNV-1a.
constexpr uint64_t kEmptyHash = 0xcbf29ce484222325;
uint64_t extended(uint64_t hash, char byte) {
  return (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
}

bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), begins_character);
}

class PartFinder {
 public:
  explicit PartFinder(std::span<const std::string> tokens) : tokens_(tokens) {
    for (size_t id = 0; id < tokens.size(); ++id) {
      uint64_t hash = kEmptyHash;
      for (const char byte : tokens[id]) hash = extended(hash, byte);
      by_hash_.emplace(hash, static_cast<int32_t>(id));
      by_text_.emplace(tokens[id], static_cast<int32_t>(id));
    }
  }

  // Appends the cuts of one token, in the order of the parts' ids.
  void find(std::string_view token, std::vector<ImpliedMerge>& out) const {
    const auto first = std::ssize(out);
    uint64_t hash = kEmptyHash;
    for (size_t cut = 1; cut < token.size(); ++cut) {
      hash = extended(hash, token[cut - 1]);
      if (!begins_character(token[cut])) continue;
      const auto [begin, end] = by_hash_.equal_range(hash);
      for (auto left = begin; left != end; ++left) {
        if (tokens_[static_cast<size_t>(left->second)] != token.substr(0, cut)) continue;
        const auto right = by_text_.find(token.substr(cut));
        if (right != by_text_.end()) out.push_back({left->second, right->second});
      }
    }
    std::sort(out.begin() + first, out.end(), [](const ImpliedMerge& a, const ImpliedMerge& b) {
      return a.left != b.left ? a.left < b.left : a.right < b.right;
    });
  }

 private:
  std::span<const std::string> tokens_;
  std::unordered_multimap<uint64_t, int32_t> by_hash_;
  std::unordered_map<std::string_view, int32_t> by_text_;
};

struct RankedMerge {
  ImpliedMerge merge;
  double score;
  int64_t left_length, right_length;  // characters
};

bool before(const RankedMerge& a, const RankedMerge& b) {
  if (a.score != b.score) return a.score > b.score;
  if (a.left_length != b.left_length) return a.left_length > b.left_length;
  return a.right_length > b.right_length;
}

}  // namespace

std::vector<ImpliedMerge> implied_merges(std::span<const std::string> tokens,
                                         std::span<const double> scores, const std::string& place) {
  check(scores.empty() || scores.size() == tokens.size(), "{} scores of {} tokens", scores.size(),
        tokens.size());
  const size_t limit = kMergesPerToken * tokens.size() + kFreeMerges;
  const PartFinder finder(tokens);
  std::vector<RankedMerge> ranked;
  std::vector<ImpliedMerge> cuts;
  for (size_t id = 0; id < tokens.size(); ++id) {
    cuts.clear();
    finder.find(tokens[id], cuts);
    if (ranked.size() + cuts.size() > limit)
      fail(ErrorCode::BadInput, "{}: {} tokens that are made of each other in more than {} ways",
           place, tokens.size(), limit);
    // Without scores a token's cuts rank by its id and by the shorter left part, which is the
    // longer right one: both negated, as the order below is descending.
    const double score = scores.empty() ? -static_cast<double>(id) : scores[id];
    const int sign = scores.empty() ? -1 : 1;
    for (const ImpliedMerge& cut : cuts)
      ranked.push_back({cut, score, sign * characters(tokens[static_cast<size_t>(cut.left)]),
                        sign * characters(tokens[static_cast<size_t>(cut.right)])});
  }
  std::stable_sort(ranked.begin(), ranked.end(), before);
  std::vector<ImpliedMerge> merges;
  merges.reserve(ranked.size());
  for (const RankedMerge& entry : ranked) merges.push_back(entry.merge);
  return merges;
}

}  // namespace lema

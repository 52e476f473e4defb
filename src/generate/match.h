// Match: how many greedy replies of a model follow a pattern. Behind `lema eval --task match`.
//
// The file is JSONL, one object a line: {"messages": [{"role", "content"}, ...], "tools": [...]
// optional, "match": REGEX optional}. The conversation ends before the reply that is asked for;
// other keys are left alone.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/model_text.h"
#include "generate/generator.h"
#include "generate/pattern.h"

namespace lema {

struct MatchRow {
  int64_t line = 0;
  std::vector<int32_t> prompt;     // the rendered conversation with the generation prompt
  std::optional<Pattern> pattern;  // the row's own
};

// BadInput "PATH:LINE: reason" for the first bad row, among them one whose prompt takes all of the
// model's `positions`, and for a file without rows. Usage when a row has no "match" and there is no
// common pattern (`has_common`).
std::vector<MatchRow> read_match_rows(const std::string& path, const ModelText& text,
                                      bool has_common, int64_t positions);

struct MatchedReply {
  int64_t line = 0;
  std::string reply;  // special tokens visible, the stop token left out
  bool matched = false;
  Finish finish = Finish::Length;
  int64_t tokens = 0;
};

struct MatchSummary {
  int64_t rows = 0, matched = 0, stopped = 0, distinct = 0, tokens = 0;
  double share(int64_t count) const {
    return static_cast<double>(count) / static_cast<double>(rows);
  }
};

// Replies to all rows; a row's own pattern goes before `common`. With `require_stop` a reply counts
// only when a stop token ended it. `report` is called after each finished reply with their number;
// false ends with InterruptedEmpty.
std::vector<MatchedReply> match_replies(const std::vector<MatchRow>& rows, const Pattern* common,
                                        bool require_stop, const ModelText& text,
                                        Generator& generator,
                                        const std::function<bool(int64_t)>& report);
MatchSummary summarise(const std::vector<MatchedReply>& replies);

}  // namespace lema

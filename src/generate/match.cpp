// Reading the rows, generating and judging.
#include "generate/match.h"

#include <set>
#include <sstream>

#include "core/file.h"
#include "data/chat_mask.h"
#include "data/row_shapes.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{4} << 30;

MatchRow row_of(const Value& object, const std::string& place, const ModelText& text) {
  const auto shape = detect_shape(object);
  const auto dialogue = shape && (shape->format == "chat" || shape->format == "sharegpt")
                            ? dialogue_of(shape->format, object)
                            : std::nullopt;
  if (!dialogue) fail(ErrorCode::BadInput, "no array \"messages\" or \"conversations\"");
  if (dialogue->messages.as_array().back().find("role")->as_string() == "assistant")
    fail(ErrorCode::BadInput,
         "the last message is the assistant's; the conversation must end before the reply");
  MatchRow row;
  if (const Value* match = object.find("match"); match && !match->is_null()) {
    if (!match->is_string())
      fail(ErrorCode::BadInput, "match: found {}, expected string", name(match->kind()));
    row.pattern.emplace(match->as_string(), place);
  }
  row.prompt = encode_prompt(*dialogue, text);
  return row;
}

}  // namespace

std::vector<MatchRow> read_match_rows(const std::string& path, const ModelText& text,
                                      bool has_common, int64_t positions) {
  std::istringstream lines(read_text(path, kMaxFileBytes));
  lines.exceptions(std::ios::badbit);  // where memory runs out a stream would just end
  std::vector<MatchRow> rows;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string place = fmt::format("{}:{}", path, number);
    const Value object = parse_json(line, path, kJsonLineLimits, number);
    try {
      rows.push_back(row_of(object, place, text));
      if (const auto length = std::ssize(rows.back().prompt); length >= positions)
        fail(ErrorCode::BadInput,
             "the prompt has {} tokens; the model has {} positions, the reply's among them", length,
             positions);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::BadInput || std::string_view(error.what()).starts_with(place))
        throw;
      fail(ErrorCode::BadInput, "{}: {}", place, error.what());
    }
    rows.back().line = number;
    if (!has_common && !rows.back().pattern)
      fail(ErrorCode::Usage, "{}: the row has no \"match\"; give --pattern", place);
  }
  if (rows.empty()) fail(ErrorCode::BadInput, "{}: the file has no rows", path);
  return rows;
}

std::vector<MatchedReply> match_replies(const std::vector<MatchRow>& rows, const Pattern* common,
                                        bool require_stop, const ModelText& text,
                                        Generator& generator,
                                        const std::function<bool(int64_t)>& report) {
  std::vector<std::vector<int32_t>> prompts;
  for (const MatchRow& row : rows) prompts.push_back(row.prompt);
  int64_t done = 0;
  const std::vector<Reply> replies = generator.generate(prompts, {}, [&](int64_t) {
    if (!report(++done))
      fail(ErrorCode::InterruptedEmpty, "interrupted after {} of {} replies", done, rows.size());
  });
  std::vector<MatchedReply> result;
  for (size_t i = 0; i < rows.size(); ++i) {
    MatchedReply reply;
    reply.line = rows[i].line;
    reply.reply = text.tokenizer().decode(replies[i].text_ids(), false);
    reply.finish = replies[i].finish;
    reply.tokens = std::ssize(replies[i].ids);
    const Pattern* pattern = rows[i].pattern ? &*rows[i].pattern : common;
    check(pattern != nullptr, "line {} has no pattern", reply.line);
    reply.matched =
        pattern->matches(reply.reply) && (!require_stop || reply.finish == Finish::Stop);
    result.push_back(std::move(reply));
  }
  return result;
}

MatchSummary summarise(const std::vector<MatchedReply>& replies) {
  MatchSummary summary;
  std::set<std::string_view> distinct;
  for (const MatchedReply& reply : replies) {
    ++summary.rows;
    summary.matched += reply.matched;
    summary.stopped += reply.finish == Finish::Stop;
    summary.tokens += reply.tokens;
    distinct.insert(reply.reply);
  }
  summary.distinct = std::ssize(distinct);
  return summary;
}

}  // namespace lema

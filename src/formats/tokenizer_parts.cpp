// Builders of tokenizer.json sections.
#include "formats/tokenizer_parts.h"

#include <unordered_set>

#include "core/byte_level.h"
#include "core/error.h"

namespace lema {
namespace {

constexpr size_t kMaxTokenBytes = 32 * 1024;  // the byte-level spelling takes up to twice as many

}  // namespace

Value added_token_json(int64_t id, std::string_view content, bool special) {
  return Value::Object{{"id", id},          {"content", content}, {"single_word", false},
                       {"lstrip", false},   {"rstrip", false},    {"normalized", false},
                       {"special", special}};
}

void check_ranked(const RankedTokens& ranked, const std::string& place) {
  std::unordered_set<std::string_view> known;
  known.reserve(ranked.tokens.size());
  for (size_t rank = 0; rank < ranked.tokens.size(); ++rank) {
    const std::string& token = ranked.tokens[rank];
    if (token.empty() || token.size() > kMaxTokenBytes)
      fail(ErrorCode::BadInput, "{}: the token of rank {} has {} bytes, expected 1 to {}", place,
           rank, token.size(), kMaxTokenBytes);
    if (!known.insert(token).second)
      fail(ErrorCode::BadInput, "{}: the token of rank {}, \"{}\", is given twice", place, rank,
           escaped(token));
  }
  for (int b = 0; b < 256; ++b)
    if (const auto byte = static_cast<char>(b); !known.contains({&byte, 1}))
      fail(ErrorCode::BadInput, "{}: byte {} is no token", place, b);
}

Value ranked_tokenizer_json(const RankedTokens& ranked) {
  Value::Object vocab;
  Value::Array ranks(static_cast<size_t>(ranked.first_id), Value(-1));
  vocab.reserve(ranked.tokens.size());
  ranks.reserve(ranks.size() + ranked.tokens.size());
  for (const std::string& token : ranked.tokens) {
    vocab.emplace_back(byte_level_spelling(token), std::ssize(ranks));
    ranks.push_back(std::ssize(vocab) - 1);
  }
  Value::Array added;
  for (const auto& [id, text] : ranked.special) added.push_back(added_token_json(id, text, true));
  Value::Object model{{"type", "BPE"}, {"ignore_merges", true}};
  model.emplace_back("vocab", std::move(vocab));  // a list in braces would copy it
  model.emplace_back("token_ranks", std::move(ranks));
  Value::Object json{
      {"added_tokens", std::move(added)},
      {"normalizer", ranked.words.nfc ? Value(Value::Object{{"type", "NFC"}}) : Value()},
      {"pre_tokenizer", pre_tokenizer_json(ranked.words)},
      {"post_processor", nullptr},
      {"decoder", byte_level_json(false, false)}};
  json.emplace_back("model", std::move(model));
  return json;
}

Value frame_json(const std::optional<FrameToken>& bos, const std::optional<FrameToken>& eos) {
  if (!bos && !eos) return {};
  Value::Array single;
  Value::Object specials;
  const auto add = [&](const FrameToken& token) {
    single.push_back(
        Value::Object{{"SpecialToken", Value::Object{{"id", token.text}, {"type_id", 0}}}});
    if (specials.empty() || specials[0].first != token.text)
      specials.emplace_back(token.text, Value::Object{{"id", token.text},
                                                      {"ids", Value::Array{token.id}},
                                                      {"tokens", Value::Array{token.text}}});
  };
  if (bos) add(*bos);
  single.push_back(Value::Object{{"Sequence", Value::Object{{"id", "A"}, {"type_id", 0}}}});
  if (eos) add(*eos);
  return Value::Object{{"type", "TemplateProcessing"},
                       {"single", std::move(single)},
                       {"special_tokens", std::move(specials)}};
}

}  // namespace lema

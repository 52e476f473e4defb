// Checks every entry of the file and lays out its ids.
#include "formats/tekken.h"

#include <array>

#include "core/error.h"
#include "core/utf8.h"
#include "formats/base64.h"
#include "formats/json_fields.h"
#include "formats/tokenizer_parts.h"

namespace lema {
namespace {

// Of files older than "special_tokens".
constexpr std::array<const char*, 20> kFirstSpecial = {"<unk>",
                                                       "<s>",
                                                       "</s>",
                                                       "[INST]",
                                                       "[/INST]",
                                                       "[AVAILABLE_TOOLS]",
                                                       "[/AVAILABLE_TOOLS]",
                                                       "[TOOL_RESULTS]",
                                                       "[/TOOL_RESULTS]",
                                                       "[TOOL_CALLS]",
                                                       "[IMG]",
                                                       "<pad>",
                                                       "[IMG_BREAK]",
                                                       "[IMG_END]",
                                                       "[PREFIX]",
                                                       "[MIDDLE]",
                                                       "[SUFFIX]",
                                                       "[SYSTEM_PROMPT]",
                                                       "[/SYSTEM_PROMPT]",
                                                       "[TOOL_CONTENT]"};

const Value::Array& array(const JsonFields& fields, std::string_view key) {
  const Value& value = fields.required(key);
  if (!value.is_array()) fields.wrong(key, value, "array");
  return value.as_array();
}

std::string required_text(const JsonFields& fields, std::string_view key) {
  const Value& value = fields.required(key);
  if (!value.is_string()) fields.wrong(key, value, "string");
  return value.as_string();
}

std::vector<std::string> special_tokens(const JsonFields& file, int64_t count) {
  std::vector<std::string> names(static_cast<size_t>(count));
  if (!file.find("special_tokens")) {
    for (size_t id = 0; id < std::min(names.size(), kFirstSpecial.size()); ++id)
      names[id] = kFirstSpecial[id];
  } else {
    for (const Value& entry : array(file, "special_tokens")) {
      const JsonFields fields(entry, fmt::format("{}: special_tokens", file.source()));
      const auto rank = static_cast<size_t>(fields.required_integer("rank", 0, count - 1));
      if (!names[rank].empty())
        fail(ErrorCode::BadInput, "{}: rank {} is given twice", fields.place("rank"), rank);
      names[rank] = required_text(fields, "token_str");
      if (names[rank].empty())
        fail(ErrorCode::BadInput, "{}: the token is empty", fields.place("token_str"));
    }
  }
  for (size_t id = 0; id < names.size(); ++id)
    if (names[id].empty()) names[id] = fmt::format("<SPECIAL_{}>", id);
  return names;
}

}  // namespace

Value tekken_tokenizer_json(const Value& file, const std::string& place) {
  const JsonFields fields(file, place);
  const JsonFields config(fields.required("config"), place + ": config");
  const int64_t special = config.required_integer("default_num_special_tokens", 0, kMaxTokens);
  const int64_t size = config.required_integer("default_vocab_size", special, kMaxTokens);
  const Value::Array& vocab = array(fields, "vocab");
  if (size - special > std::ssize(vocab))
    fail(ErrorCode::BadInput, "{}: {} tokens, default_vocab_size {} and {} special tokens need {}",
         place, vocab.size(), size, special, size - special);
  RankedTokens ranked;
  ranked.first_id = special;
  for (int64_t rank = 0; rank < size - special; ++rank) {
    const JsonFields entry(vocab[static_cast<size_t>(rank)], place + ": vocab");
    if (const int64_t found = entry.required_integer("rank", 0, kMaxTokens); found != rank)
      fail(ErrorCode::BadInput, "{}: found {}, expected {}", entry.place("rank"), found, rank);
    auto token = base64_bytes(required_text(entry, "token_bytes"));
    if (!token) fail(ErrorCode::BadInput, "{}: no base64", entry.place("token_bytes"));
    ranked.tokens.push_back(std::move(*token));
  }
  check_ranked(ranked, place);
  const std::vector<std::string> names = special_tokens(fields, special);
  for (size_t id = 0; id < names.size(); ++id)
    ranked.special.emplace_back(static_cast<int64_t>(id), names[id]);
  const std::string pattern = required_text(config, "pattern");
  if (pattern.empty()) fail(ErrorCode::BadInput, "{}: empty", config.place("pattern"));
  ranked.words.splits[0] = pattern;
  return ranked_tokenizer_json(ranked);
}

}  // namespace lema

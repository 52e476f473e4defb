// Collects the tokens by the order of transformers, then numbers those that the tokenizer lacks.
#include "formats/config_tokens.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/error.h"
#include "formats/tokenizer_parts.h"

namespace lema {
namespace {

constexpr std::array<std::string_view, 7> kRoles = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

// An entry of added_tokens, its id still open where given_id is -1.
struct Wanted {
  Value entry;
  int64_t given_id = -1;
  int line = 0;
};

// normalized: where the token does not say.
void want(std::vector<Wanted>& wanted, const Value* token, bool normalized) {
  const std::string content = token_content(token).value_or("");
  if (content.empty()) return;
  Value entry = added_token_json(0, content, true);
  if (token->is_object()) {
    entry.set("normalized", normalized);
    for (const char* key : {"single_word", "lstrip", "rstrip", "normalized"})
      if (const Value* flag = token->find(key)) entry.set(key, *flag);
  }
  wanted.push_back({std::move(entry)});
}

bool is_role(std::string_view key) {
  return std::find(kRoles.begin(), kRoles.end(), key) != kRoles.end();
}

bool has_items(const Value* list) { return list && list->is_array() && !list->as_array().empty(); }

void want_named(std::vector<Wanted>& wanted, const Value& config, const Value* map) {
  for (const std::string_view role : kRoles) {
    const Value* mapped = map ? map->find(role) : nullptr;
    want(wanted, mapped ? mapped : config.find(role), mapped == nullptr);
  }
  for (const Value* source : {&config, map}) {
    if (!source || !source->is_object()) continue;
    for (const auto& [key, token] : source->as_object())
      if (key.ends_with("_token") && !is_role(key)) want(wanted, &token, source == &config);
  }
  const Value* extra = config.find("extra_special_tokens");
  if (extra && extra->is_object())
    for (const auto& [name, token] : extra->as_object()) want(wanted, &token, true);
  const auto want_list = [&](const Value* list, bool normalized) {
    for (const Value& token : list->as_array()) want(wanted, &token, normalized);
  };
  bool listed = true;
  if (has_items(extra))
    want_list(extra, true);
  else if (const Value* more = config.find("additional_special_tokens"); has_items(more))
    want_list(more, true);
  else
    listed = false;
  if (const Value* more = map ? map->find("extra_special_tokens") : nullptr; has_items(more))
    want_list(more, false);
  else if (more = map ? map->find("additional_special_tokens") : nullptr;
           !listed && has_items(more))
    want_list(more, false);
}

// The tokens of added_tokens.json by id; `named` ones among them are special.
std::vector<Wanted> read_added_tokens(const Value& file, const std::vector<Wanted>& named,
                                      const std::string& place) {
  if (!file.is_object())
    fail(ErrorCode::BadInput, "{}: found {}, expected an object", place, name(file.kind()));
  std::unordered_set<std::string_view> special;
  for (const Wanted& other : named) special.insert(other.entry.find("content")->as_string());
  std::vector<Wanted> tokens;
  for (const auto& [token, id] : file.as_object()) {
    if (token.empty() || !id.is_int() || id.as_int() < 0)
      fail(ErrorCode::BadInput, "{}:{}: expected a token and its id", place, id.line);
    const bool is_special = special.contains(token);
    Value entry = added_token_json(id.as_int(), token, is_special);
    entry.set("normalized", !is_special);
    tokens.push_back({std::move(entry), id.as_int(), id.line});
  }
  std::sort(tokens.begin(), tokens.end(),
            [](const Wanted& a, const Wanted& b) { return a.given_id < b.given_id; });
  return tokens;
}

// The ids that added_tokens and added_tokens_decoder give, by content.
std::unordered_map<std::string, int64_t> added_ids(const Value::Array& added,
                                                   const Value* decoder) {
  std::unordered_map<std::string, int64_t> ids;
  for (const Value& entry : added)
    if (const Value* id = entry.find("id"); id && id->is_int())
      ids.emplace(token_content(&entry).value_or(""), id->as_int());
  if (decoder && decoder->is_object())
    for (const auto& [id, entry] : decoder->as_object())
      if (!id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos)
        ids.insert_or_assign(token_content(&entry).value_or(""), std::stoll(id));
  return ids;
}

}  // namespace

std::optional<std::string> token_content(const Value* token) {
  if (token && token->is_object()) token = token->find("content");
  return token && token->is_string() ? std::optional(token->as_string()) : std::nullopt;
}

void add_config_tokens(Value& tokenizer, const ConfigTokens& tokens) {
  const Value* model = tokenizer.find("model");
  const Value* vocab = model ? model->find("vocab") : nullptr;
  if (!vocab || !vocab->is_object()) return;  // Tokenizer says what is wrong
  const Value* decoder = tokens.config.find("added_tokens_decoder");
  std::vector<Wanted> wanted;
  want_named(wanted, tokens.config, decoder ? nullptr : tokens.special_map);
  if (tokens.added_tokens && !decoder) {
    std::vector<Wanted> first =
        read_added_tokens(*tokens.added_tokens, wanted, tokens.added_tokens_place);
    wanted.insert(wanted.begin(), std::make_move_iterator(first.begin()),
                  std::make_move_iterator(first.end()));
  }

  const Value* list = tokenizer.find("added_tokens");
  if (list && !list->is_array() && !list->is_null()) return;
  Value::Array added = list && list->is_array() ? list->as_array() : Value::Array{};
  auto ids = added_ids(added, decoder);
  int64_t next = std::ssize(vocab->as_object());
  for (const auto& [content, id] : ids) next = std::max(next, id + 1);
  std::unordered_map<std::string, std::optional<int64_t>> in_vocab;
  for (const Wanted& token : wanted) in_vocab[token.entry.find("content")->as_string()];
  for (const auto& [token, id] : vocab->as_object())
    if (const auto found = in_vocab.find(token); found != in_vocab.end() && id.is_int())
      found->second = id.as_int();

  for (Wanted& token : wanted) {
    const std::string content = token.entry.find("content")->as_string();
    const auto known = ids.find(content);
    const int64_t id = known != ids.end() ? known->second : in_vocab[content].value_or(next);
    if (token.given_id >= 0 && token.given_id != id)
      fail(ErrorCode::BadInput, "{}:{}: \"{}\" has id {}, expected {}, its place in the tokenizer",
           tokens.added_tokens_place, token.line, escaped(content), token.given_id, id);
    if (known != ids.end()) continue;
    next = std::max(next, id + 1);
    ids.emplace(content, id);
    token.entry.set("id", id);
    added.push_back(std::move(token.entry));
  }
  tokenizer.set("added_tokens", std::move(added));
}

}  // namespace lema

// Loading a BPE model: its vocabulary, its merges from a list or from the ranks of its tokens, and
// the words that are one token.
#include <algorithm>
#include <optional>

#include "core/byte_level.h"
#include "text/bpe.h"
#include "text/tokenizer_fields.h"
#include "text/unicode.h"

namespace lema {
namespace {

const std::string kPlace = "tokenizer.json: model";
// Bytes hashed to find the parts of all tokens: half a second.
constexpr uint64_t kMaxDerivation = 500'000'000;
constexpr int64_t kTried = 50'000;  // tokens

// The kind of model, also where an old file does not say: pieces with scores are a list, and only
// BPE has merges.
std::string model_type(const Value& model) {
  if (const Value* type = model.find("type"); type != nullptr) {
    fields::expect(*type, Value::Kind::String, kPlace + ".type");
    return type->as_string();
  }
  if (const Value* vocab = model.find("vocab"); vocab != nullptr && vocab->is_array())
    return "Unigram";
  return model.find("merges") == nullptr && model.find("max_input_chars_per_word") != nullptr
             ? "WordPiece"
             : "BPE";
}

void refuse_variants(const Value& model) {
  if (const std::string type = model_type(model); type != "BPE")
    fields::unsupported("model type", type, "BPE", kPlace);
  if (const Value* dropout = model.find("dropout"); dropout != nullptr && !dropout->is_null())
    if (!dropout->is_number() || dropout->as_number() != 0)
      fail(ErrorCode::BadInput, "{}: dropout is not supported", kPlace);
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const Value* affix = model.find(key); affix != nullptr && !affix->is_null())
      if (!affix->is_string() || !affix->as_string().empty())
        fail(ErrorCode::BadInput, "{}: {} is not supported", kPlace, key);
}

// Both spellings: "a b", cut at the first space after the first character, and ["a", "b"].
std::pair<std::string_view, std::string_view> merge_parts(const Value& merge, size_t index) {
  if (merge.is_string()) {
    const std::string_view text = merge.as_string();
    const size_t space = text.find(' ', 1);
    if (space != std::string_view::npos) return {text.substr(0, space), text.substr(space + 1)};
  } else if (merge.is_array()) {
    const Value::Array& pair = merge.as_array();
    if (pair.size() == 2 && pair[0].is_string() && pair[1].is_string())
      return {pair[0].as_string(), pair[1].as_string()};
  }
  fail(ErrorCode::BadInput, "{}.merges[{}]: expected \"a b\" or [\"a\", \"b\"]", kPlace, index);
}

}  // namespace

Bpe::Bpe(const Value& model, bool byte_level, Vocabulary& vocabulary) : byte_level_(byte_level) {
  fields::expect(model, Value::Kind::Object, kPlace);
  refuse_variants(model);
  const Value& vocab = fields::member(model, "vocab", kPlace);
  fields::expect(vocab, Value::Kind::Object, kPlace + ".vocab");
  const std::string place = kPlace + ".vocab";
  for (const auto& [token, id] : vocab.as_object()) {
    if (!id.is_int())
      fail(ErrorCode::BadInput, "{}: token \"{}\": found {}, expected integer", place,
           escaped(token), name(id.kind()));
    vocabulary.add(token, id.as_int(), place);
  }
  if (vocabulary.count() == 0) fail(ErrorCode::BadInput, "{}.vocab is empty", kPlace);

  fuse_unknown_ = fields::flag(model, "fuse_unk", false, kPlace);
  byte_fallback_ = !byte_level_ && fields::flag(model, "byte_fallback", false, kPlace);
  if (const Value* unknown = model.find("unk_token"); unknown != nullptr && !unknown->is_null()) {
    const std::string& token = fields::text(model, "unk_token", kPlace);
    const auto id = vocabulary.find(token);
    if (!id)
      fail(ErrorCode::BadInput, "{}: unk_token \"{}\" is not in vocab", kPlace, escaped(token));
    unknown_ = *id;
  }
  load_characters(vocabulary);
  const bool ignore_merges = fields::flag(model, "ignore_merges", false, kPlace);
  cut_before_space_ = !byte_level_ && !ignore_merges && vocabulary.find(kMetaspace).has_value();
  if (model.find("token_ranks") != nullptr)
    derive_merges(fields::array(model, "token_ranks", kPlace), vocabulary);
  else
    load_merges(fields::array(model, "merges", kPlace), vocabulary);
  load_words(vocabulary, ignore_merges);
  if (model.find("user_defined") != nullptr)
    load_user_defined(fields::array(model, "user_defined", kPlace), vocabulary);
}

void Bpe::load_characters(const Vocabulary& vocabulary) {
  byte_ids_.fill(-1);
  ascii_.fill(-1);
  for (unsigned b = 0; b < 256; ++b) {
    const auto byte = static_cast<char>(b);
    const std::string token =
        byte_level_ ? byte_level_spelling({&byte, 1}) : fmt::format("<0x{:02X}>", b);
    if (byte_level_ || byte_fallback_) byte_ids_[b] = vocabulary.find(token).value_or(-1);
  }
  if (byte_level_) return;
  for (int32_t id = 0; id < vocabulary.limit(); ++id) {
    const auto token = vocabulary.token(id);
    if (!token || token->empty()) continue;
    const Character c = character_at(*token, 0);
    if (c.bytes != token->size()) continue;
    if (c.code < ascii_.size())
      ascii_[c.code] = id;
    else
      characters_.emplace(c.code, id);
  }
}

// Keeps cut_before_space_ true to its word.
void Bpe::note_product(std::string_view product) {
  if (!cut_before_space_) return;
  size_t at = 0;
  while (product.substr(at).starts_with(kMetaspace)) at += kMetaspace.size();
  for (; (at = product.find(kMetaspace, at)) != std::string_view::npos; at += kMetaspace.size())
    if (!product.substr(0, at).ends_with(kMetaspace)) cut_before_space_ = false;
}

void Bpe::load_merges(const Value::Array& merges, const Vocabulary& vocabulary) {
  if (merges.size() > kMaxMerges)
    fail(ErrorCode::BadInput, "{}: {} merges, at most {} are allowed", kPlace, merges.size(),
         kMaxMerges);
  std::vector<MergeTable::Pair> pairs;
  pairs.reserve(merges.size());
  std::string product;
  for (size_t i = 0; i < merges.size(); ++i) {
    if (merges[i].is_string() && merges[i].as_string().starts_with("#version")) continue;
    const auto [left, right] = merge_parts(merges[i], i);
    product.assign(left).append(right);
    note_product(product);
    const auto id = [&](std::string_view token) {
      const auto found = vocabulary.find(token);
      if (!found)
        fail(ErrorCode::BadInput, "{}.merges[{}]: \"{}\" is not in vocab", kPlace, i,
             escaped(token));
      return *found;
    };
    pairs.push_back({id(left), id(right), {static_cast<int32_t>(i), id(product)}});
  }
  const int64_t twice = merges_.fill(pairs);
  if (twice < 0) return;
  const auto i = static_cast<size_t>(pairs[static_cast<size_t>(twice)].merge.rank);
  const auto [left, right] = merge_parts(merges[i], i);
  fail(ErrorCode::BadInput, "{}.merges[{}]: \"{}\" and \"{}\" are merged twice", kPlace, i,
       escaped(left), escaped(right));
}

// Every way to cut a token into two tokens is a merge with the token's rank.
void Bpe::derive_merges(const Value::Array& ranks, const Vocabulary& vocabulary) {
  std::vector<int32_t> rank_of(static_cast<size_t>(vocabulary.limit()), -1);
  for (size_t id = 0; id < std::min(ranks.size(), rank_of.size()); ++id) {
    const int64_t rank = ranks[id].as_int();
    if (rank > Vocabulary::kMaxTokens)
      fail(ErrorCode::BadInput, "{}.token_ranks[{}]: {}, at most {} is allowed", kPlace, id, rank,
           Vocabulary::kMaxTokens);
    rank_of[id] = static_cast<int32_t>(std::max<int64_t>(rank, -1));
  }
  const auto merging = [&](std::string_view part) -> std::optional<int32_t> {
    const auto id = vocabulary.find(part);
    return id && rank_of[static_cast<size_t>(*id)] >= 0 ? id : std::nullopt;
  };
  std::vector<MergeTable::Pair> pairs;
  uint64_t work = 0;
  for (int32_t id = 0; id < vocabulary.limit(); ++id) {
    const int32_t rank = rank_of[static_cast<size_t>(id)];
    const auto token = vocabulary.token(id);
    if (!token || rank < 0) continue;
    if ((work += token->size() * token->size()) > kMaxDerivation || pairs.size() > kMaxMerges)
      fail(ErrorCode::BadInput, "{}: tokens too long or too many to find their merges", kPlace);
    note_product(*token);
    const std::string_view text = *token;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      if ((static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) continue;
      const auto left = merging(text.substr(0, cut));
      const auto right = left ? merging(text.substr(cut)) : std::nullopt;
      if (right) pairs.push_back({*left, *right, {rank, id}});
    }
  }
  merges_.fill(pairs);
}

void Bpe::load_user_defined(const Value::Array& ids, const Vocabulary& vocabulary) {
  for (const Value& id : ids) {
    const auto token = vocabulary.token(id.as_int());
    if (!token || token->empty())
      fail(ErrorCode::BadInput, "{}.user_defined: no token has id {}", kPlace, id.as_int());
    user_defined_.add(
        *token, {.content = std::string(*token), .id = static_cast<int32_t>(id.as_int())});
  }
}

// Tokens that are found as whole words: all of them where merges are ignored, else those that
// merging their own text leads to, which is asked of the first ones only: they are the frequent.
void Bpe::load_words(const Vocabulary& vocabulary, bool ignore_merges) {
  WordTable words;
  Scratch scratch;
  std::string word;
  const int64_t tried = ignore_merges ? vocabulary.limit() : std::min(vocabulary.limit(), kTried);
  for (int32_t id = 0; id < tried; ++id) {
    const auto token = vocabulary.token(id);
    if (!token) continue;
    word.clear();
    if (!byte_level_)
      word = *token;
    else if (!append_byte_level_bytes(word, *token))
      continue;
    if (!ignore_merges) {
      encode(word, scratch);
      if (scratch.tokens.size() != 1 || scratch.tokens[0].id != id) continue;
    }
    words.add(word, id);
  }
  words_ = std::move(words);
}

}  // namespace lema

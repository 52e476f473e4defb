// Loading and running a BPE model. Symbols form a linked list; a heap holds the merges that are
// possible, an entry that its symbols have outgrown is dropped when it comes up.
#include "text/bpe.h"

#include <algorithm>
#include <bit>

#include "text/byte_level.h"
#include "text/tokenizer_fields.h"
#include "text/unicode.h"

namespace lema {
namespace {

const std::string kPlace = "tokenizer.json: model";

void refuse_variants(const Value& model) {
  if (const Value* type = model.find("type"); type != nullptr) {
    fields::expect(*type, Value::Kind::String, kPlace + ".type");
    if (type->as_string() != "BPE")
      fields::unsupported("model type", type->as_string(), "BPE", kPlace);
  }
  if (const Value* dropout = model.find("dropout"); dropout != nullptr && !dropout->is_null())
    if (!dropout->is_number() || dropout->as_number() != 0)
      fail(ErrorCode::BadInput, "{}: dropout is not supported", kPlace);
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const Value* affix = model.find(key); affix != nullptr && !affix->is_null())
      if (!affix->is_string() || !affix->as_string().empty())
        fail(ErrorCode::BadInput, "{}: {} is not supported", kPlace, key);
  if (fields::flag(model, "byte_fallback", false, kPlace))
    fail(ErrorCode::BadInput, "{}: byte_fallback (SentencePiece-style BPE) is not supported",
         kPlace);
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

MergeTable::MergeTable(size_t merges) {
  const size_t slots = std::bit_ceil(merges * 2 + 1);  // at most half full, so every search ends
  slots_.resize(slots);
  mask_ = slots - 1;
}

bool MergeTable::add(int32_t left, int32_t right, Merge merge) {
  size_t at = place(left, right);
  for (; slots_[at].merge.rank >= 0; at = (at + 1) & mask_)
    if (slots_[at].key == key(left, right)) return false;
  slots_[at] = {key(left, right), merge};
  return true;
}

Bpe::Bpe(const Value& model, bool byte_level, Vocabulary& vocabulary) : byte_level_(byte_level) {
  fields::expect(model, Value::Kind::Object, kPlace);
  refuse_variants(model);
  const Value& vocab = fields::member(model, "vocab", kPlace);
  fields::expect(vocab, Value::Kind::Object, kPlace + ".vocab");
  for (const auto& [token, id] : vocab.as_object()) {
    if (!id.is_int())
      fail(ErrorCode::BadInput, "{}.vocab: token \"{}\": found {}, expected integer", kPlace,
           escaped(token), name(id.kind()));
    vocabulary.add(token, id.as_int(), kPlace + ".vocab");
  }
  if (vocabulary.count() == 0) fail(ErrorCode::BadInput, "{}.vocab is empty", kPlace);

  ignore_merges_ = fields::flag(model, "ignore_merges", false, kPlace);
  fuse_unknown_ = fields::flag(model, "fuse_unk", false, kPlace);
  if (const Value* unknown = model.find("unk_token"); unknown != nullptr && !unknown->is_null()) {
    const std::string& token = fields::text(model, "unk_token", kPlace);
    const auto id = vocabulary.find(token);
    if (!id)
      fail(ErrorCode::BadInput, "{}: unk_token \"{}\" is not in vocab", kPlace, escaped(token));
    unknown_ = *id;
  }

  if (byte_level_)
    for (unsigned b = 0; b < 256; ++b) {
      std::string spelling;
      append_utf8(spelling, byte_level_character(static_cast<uint8_t>(b)));
      byte_ids_[b] = vocabulary.find(spelling).value_or(-1);
    }
  for (const auto& [token, id] : vocab.as_object()) {
    if (!byte_level_ && !token.empty())
      if (const Character c = character_at(token, 0); c.bytes == token.size())
        characters_.emplace(c.code, static_cast<int32_t>(id.as_int()));
    if (!ignore_merges_) continue;
    std::string word;
    if (!byte_level_)
      word = token;
    else if (!append_byte_level_bytes(word, token))
      continue;
    words_.emplace(std::move(word), static_cast<int32_t>(id.as_int()));
  }
  load_merges(fields::array(model, "merges", kPlace), vocabulary);
}

void Bpe::load_merges(const Value::Array& merges, const Vocabulary& vocabulary) {
  if (merges.size() > kMaxMerges)
    fail(ErrorCode::BadInput, "{}: {} merges, at most {} are allowed", kPlace, merges.size(),
         kMaxMerges);
  merges_ = MergeTable(merges.size());
  std::string product;
  for (size_t i = 0; i < merges.size(); ++i) {
    if (merges[i].is_string() && merges[i].as_string().starts_with("#version")) continue;
    const auto [left, right] = merge_parts(merges[i], i);
    product.assign(left).append(right);
    const auto id = [&](std::string_view token) {
      const auto found = vocabulary.find(token);
      if (!found)
        fail(ErrorCode::BadInput, "{}.merges[{}]: \"{}\" is not in vocab", kPlace, i,
             escaped(token));
      return *found;
    };
    if (!merges_.add(id(left), id(right), {static_cast<int32_t>(i), id(product)}))
      fail(ErrorCode::BadInput, "{}.merges[{}]: \"{}\" and \"{}\" are merged twice", kPlace, i,
           escaped(left), escaped(right));
  }
}

void Bpe::encode(std::string_view word, Scratch& scratch) const {
  scratch.tokens.clear();
  if (ignore_merges_)
    if (const auto whole = words_.find(word); whole != words_.end()) {
      scratch.tokens.push_back({whole->second, 0});
      return;
    }
  split(word, scratch.symbols);
  merge(scratch);
  for (const auto& symbol : scratch.symbols)
    if (symbol.id >= 0) scratch.tokens.push_back({symbol.id, symbol.begin});
}

void Bpe::split(std::string_view word, std::vector<Scratch::Symbol>& symbols) const {
  symbols.clear();
  bool after_unknown = false;
  for (size_t at = 0; at < word.size();) {
    size_t bytes = 1;
    int32_t id = -1;
    if (byte_level_) {
      id = byte_ids_[static_cast<unsigned char>(word[at])];
    } else {
      const Character c = character_at(word, at);
      bytes = c.bytes;
      if (const auto it = characters_.find(c.code); it != characters_.end()) id = it->second;
    }
    const bool unknown = id < 0;
    if (unknown) id = unknown_;
    if (id >= 0 && !(unknown && after_unknown && fuse_unknown_)) {
      const auto index = static_cast<int32_t>(symbols.size());
      symbols.push_back({id, static_cast<int32_t>(at), index - 1, index + 1});
    }
    after_unknown = unknown;
    at += bytes;
  }
  if (!symbols.empty()) symbols.back().next = -1;
}

void Bpe::merge(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto at = [&](int32_t i) -> Scratch::Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.order > b.order;
  };
  const auto candidate = [&](int32_t left) {
    const int32_t right = at(left).next;
    if (right < 0) return false;
    const MergeTable::Merge merge = merges_.find(at(left).id, at(right).id);
    if (merge.rank < 0) return false;
    heap.push_back({uint64_t{static_cast<uint32_t>(merge.rank)} << 32 | static_cast<uint32_t>(left),
                    at(left).id, at(right).id, merge.product});
    return true;
  };

  heap.clear();
  for (size_t i = 0; i < symbols.size(); ++i) candidate(static_cast<int32_t>(i));
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    const auto left = static_cast<int32_t>(best.order & 0xFFFFFFFFu);
    const int32_t right = at(left).next;
    if (at(left).id < 0 || right < 0) continue;
    // As in the reference an outgrown entry counts when the pair in its place has the same product.
    if ((at(left).id != best.left || at(right).id != best.right) &&
        merges_.find(at(left).id, at(right).id).product != best.product)
      continue;
    at(left).id = best.product;
    at(left).next = at(right).next;
    at(right).id = -1;
    if (at(left).next >= 0) at(at(left).next).previous = left;
    if (at(left).previous >= 0 && candidate(at(left).previous))
      std::push_heap(heap.begin(), heap.end(), later);
    if (candidate(left)) std::push_heap(heap.begin(), heap.end(), later);
  }
}

}  // namespace lema

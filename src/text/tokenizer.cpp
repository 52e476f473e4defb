// The tokenizer's stages put together.
#include "text/tokenizer.h"

#include <limits>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_fields.h"
#include "text/unicode.h"
#include "text/vocabulary.h"

namespace lema {
namespace {

const Value kNull;

const Value& section(const Value& json, std::string_view key) {
  fields::expect(json, Value::Kind::Object, "tokenizer.json");
  const Value* value = json.find(key);
  return value != nullptr ? *value : kNull;
}

AddedToken parse_added(const Value& entry, int64_t id, const std::string& place) {
  AddedToken token;
  token.content = fields::text(entry, "content", place);
  if (token.content.empty()) fail(ErrorCode::BadInput, "{}: content is empty", place);
  if (id < 0 || id >= Vocabulary::kMaxTokens)
    fail(ErrorCode::BadInput, "{}: id {}, expected 0 to {}", place, id, Vocabulary::kMaxTokens - 1);
  token.id = static_cast<int32_t>(id);
  token.special = fields::flag(entry, "special", false, place);
  token.single_word = fields::flag(entry, "single_word", false, place);
  token.lstrip = fields::flag(entry, "lstrip", false, place);
  token.rstrip = fields::flag(entry, "rstrip", false, place);
  token.normalized = fields::flag(entry, "normalized", !token.special, place);
  return token;
}

// The added tokens of both files by id, the config's last.
std::map<int32_t, AddedToken> parse_added_tokens(const Value& json, const Value* config) {
  std::map<int32_t, AddedToken> tokens;
  if (const Value& list = section(json, "added_tokens"); !list.is_null()) {
    const Value::Array& entries = fields::array(json, "added_tokens", "tokenizer.json");
    for (size_t i = 0; i < entries.size(); ++i) {
      const std::string place = fmt::format("tokenizer.json: added_tokens[{}]", i);
      AddedToken token = parse_added(entries[i], fields::integer(entries[i], "id", place), place);
      const int32_t id = token.id;
      if (!tokens.emplace(id, std::move(token)).second)
        fail(ErrorCode::BadInput, "{}: id {} is given twice", place, id);
    }
  }
  const Value* extra = config != nullptr ? config->find("added_tokens_decoder") : nullptr;
  if (extra == nullptr || extra->is_null()) return tokens;
  fields::expect(*extra, Value::Kind::Object, "tokenizer_config.json: added_tokens_decoder");
  for (const auto& [key, entry] : extra->as_object()) {
    const std::string place =
        fmt::format("tokenizer_config.json: added_tokens_decoder[\"{}\"]", escaped(key));
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos)
      fail(ErrorCode::BadInput, "{}: the key is no token id", place);
    AddedToken token = parse_added(entry, std::stoll(key), place);
    const int32_t id = token.id;
    tokens.insert_or_assign(id, std::move(token));
  }
  return tokens;
}

// The ids that a post-processor puts around a text.
struct Frame {
  std::vector<int32_t> before, after;
};

void read_template(const Value& json, const std::string& place, const Vocabulary& vocabulary,
                   Frame& frame) {
  const Value& specials = fields::member(json, "special_tokens", place);
  std::vector<int32_t> before, after;
  bool seen_text = false;
  const Value::Array& pieces = fields::array(json, "single", place);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string at = fmt::format("{}.single[{}]", place, i);
    if (const Value* sequence = pieces[i].find("Sequence")) {
      if (seen_text || fields::text(*sequence, "id", at) != "A")
        fail(ErrorCode::BadInput, "{}: expected sequence A once", at);
      seen_text = true;
      continue;
    }
    const std::string& name = fields::text(fields::member(pieces[i], "SpecialToken", at), "id", at);
    const Value* special = specials.find(name);
    if (special == nullptr)
      fail(ErrorCode::BadInput, "{}: \"{}\" is not in special_tokens", at, escaped(name));
    for (const Value& id : fields::array(*special, "ids", at)) {
      if (!id.is_int() || !vocabulary.token(id.as_int()))
        fail(ErrorCode::BadInput, "{}: \"{}\" has an id that no token has", at, escaped(name));
      (seen_text ? after : before).push_back(static_cast<int32_t>(id.as_int()));
    }
  }
  if (!seen_text) fail(ErrorCode::BadInput, "{}.single: sequence A is missing", place);
  frame.before.insert(frame.before.begin(), before.begin(), before.end());
  frame.after.insert(frame.after.end(), after.begin(), after.end());
}

Frame parse_post_processor(const Value& json, const Vocabulary& vocabulary) {
  Frame frame;
  fields::each_stage(json, "processors", "tokenizer.json: post_processor",
                     [&](const Value& stage, const std::string& place) {
                       const std::string& type = fields::text(stage, "type", place);
                       if (type == "TemplateProcessing")
                         read_template(stage, place, vocabulary, frame);
                       else if (type != "ByteLevel")  // which only trims offsets
                         fields::unsupported("post-processor", type,
                                             "TemplateProcessing, ByteLevel, Sequence", place);
                     });
  return frame;
}

}  // namespace

struct Tokenizer::Parts {
  Vocabulary vocabulary;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe model;
  TokenDecoder decoder;
  AddedTokenMatcher raw, normalized;
  std::unordered_set<int32_t> special;
  std::unordered_map<int32_t, std::string>
      respelled;  // added tokens that decode to their normalised content
  Frame frame;

  Parts(const Value& json, const Value* config)
      : normalizer(section(json, "normalizer")),
        pre_tokenizer(section(json, "pre_tokenizer")),
        model(section(json, "model"), pre_tokenizer.byte_level(), vocabulary),
        decoder(section(json, "decoder")) {
    for (const auto& [id, token] : parse_added_tokens(json, config)) add(token);
    if (vocabulary.limit() > 2 * vocabulary.count())
      fail(ErrorCode::BadInput,
           "tokenizer.json: the largest id is {} with {} tokens, expected less than twice as many",
           vocabulary.limit() - 1, vocabulary.count());
    frame = parse_post_processor(section(json, "post_processor"), vocabulary);
  }

  void add(const AddedToken& token) {
    const std::string place = "tokenizer.json: added_tokens";
    if (const auto known = vocabulary.find(token.content); !known)
      vocabulary.add(token.content, token.id, place);
    else if (*known != token.id)
      fail(ErrorCode::BadInput, "{}: \"{}\" has id {}, but {} in vocab", place,
           escaped(token.content), token.id, *known);
    if (token.special) special.insert(token.id);
    if (!token.normalized) return raw.add(token.content, token);
    const std::string content = normalizer.apply(token.content);
    normalized.add(content, token);
    if (content != token.content) respelled.emplace(token.id, content);
  }
};

namespace {

// One encode call: what the stages hand on to each other.
class Run {
 public:
  Run(const Bpe& model, const PreTokenizer& pre_tokenizer, Tokenizer::Encoding& out)
      : model_(model), pre_tokenizer_(pre_tokenizer), out_(out) {}

  // Cuts the tokens of `matcher` out of `piece`; rest(part) gets what lies between them.
  template <typename Rest>
  void cut(const AddedTokenMatcher& matcher, const Piece& piece, const Rest& rest) {
    size_t done = 0;
    for (const auto& match : matcher.find(piece.text)) {
      if (done < match.begin) rest(piece.slice(done, match.begin));
      emit(match.id, piece.offset(match.begin));
      done = match.end;
    }
    if (done < piece.text.size()) rest(piece.slice(done, piece.text.size()));
  }

  void words(const Piece& piece) {
    pre_tokenizer_.split(piece, [&](const Piece& word) {
      model_.encode(word.text, scratch_);
      for (const Bpe::Token& token : scratch_.tokens)
        emit(token.id, word.offset(static_cast<size_t>(token.begin)));
    });
  }

  void emit(int32_t id, int64_t begin) {
    out_.ids.push_back(id);
    out_.begins.push_back(begin);
  }

 private:
  const Bpe& model_;
  const PreTokenizer& pre_tokenizer_;
  Tokenizer::Encoding& out_;
  Bpe::Scratch scratch_;
};

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_json(const Value& tokenizer_json, const Value* tokenizer_config) {
  return Tokenizer(std::make_unique<const Parts>(tokenizer_json, tokenizer_config));
}

Tokenizer::Encoding Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (text.size() > size_t{std::numeric_limits<int32_t>::max()} / 2)
    fail(ErrorCode::BadInput, "a text of {} bytes is too long to encode at once", text.size());
  const Parts& parts = *parts_;
  Encoding out;
  Run run(parts.model, parts.pre_tokenizer, out);
  const Frame* frame = add_special_tokens ? &parts.frame : nullptr;
  if (frame != nullptr)
    for (const int32_t id : frame->before) run.emit(id, 0);

  std::string replaced;
  std::vector<int64_t> replaced_origin;
  Piece whole{text};
  if (!is_valid_utf8(text)) {
    replaced = replace_invalid_utf8(text, replaced_origin);
    whole = {replaced, 0, replaced_origin.data()};
  }
  run.cut(parts.raw, whole, [&](const Piece& piece) {
    const auto words = [&](const Piece& part) { run.words(part); };
    if (parts.normalizer.keeps(piece.text)) return run.cut(parts.normalized, piece, words);
    Normalizer::Text work{std::string(piece.text), std::vector<int64_t>(piece.text.size())};
    for (size_t i = 0; i < work.origin.size(); ++i) work.origin[i] = piece.offset(i);
    parts.normalizer.apply(work);
    run.cut(parts.normalized, {work.text, 0, work.origin.data()}, words);
  });

  if (frame != nullptr)
    for (const int32_t id : frame->after) run.emit(id, static_cast<int64_t>(text.size()));
  return out;
}

// As in the reference, whether a token is special is asked by the string that is shown.
std::optional<std::string_view> Tokenizer::shown(int32_t id, bool skip_special) const {
  const auto respelled = parts_->respelled.find(id);
  if (respelled == parts_->respelled.end())
    return skip_special && is_special(id) ? std::nullopt : parts_->vocabulary.token(id);
  const auto same = skip_special ? parts_->vocabulary.find(respelled->second) : std::nullopt;
  if (same && is_special(*same)) return std::nullopt;
  return respelled->second;
}

const TokenDecoder& Tokenizer::decoder() const { return parts_->decoder; }

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  TokenDecoder::State state;
  for (const int32_t id : ids)
    if (const auto token = shown(id, skip_special))
      parts_->decoder.push(state, *token, out);
  parts_->decoder.finish(state, out);
  return out;
}

int64_t Tokenizer::vocab_size() const { return parts_->vocabulary.limit(); }
std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  return parts_->vocabulary.find(token);
}
bool Tokenizer::is_special(int32_t id) const { return parts_->special.contains(id); }

std::string Tokenizer::token(int32_t id) const {
  return std::string(parts_->vocabulary.token(id).value_or(""));
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string StreamDecoder::push(int32_t id) {
  std::string out;
  if (const auto token = tokenizer_.shown(id, skip_special_))
    tokenizer_.decoder().push(state_, *token, out);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out;
  tokenizer_.decoder().finish(state_, out);
  return out;
}

}  // namespace lema

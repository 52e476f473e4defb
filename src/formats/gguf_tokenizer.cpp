// tokenizer.json out of the lists that a GGUF file carries: a byte-level BPE with its merges
// ("gpt2"), or a SentencePiece BPE whose merges follow from the scores ("llama"). What neither says
// is as transformers has it when it loads the file.
#include <array>
#include <cmath>
#include <unordered_set>

#include "formats/gguf_import.h"
#include "formats/gguf_pre_tokenizers.h"
#include "formats/implied_merges.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

// Values of tokenizer.ggml.token_type.
constexpr int64_t kControl = 3, kUserDefined = 4;
constexpr int64_t kMaxTokenId = int64_t{1} << 24;

constexpr const char* kBlank = "\u2581";  // a space inside a SentencePiece token

const Value::Array& array(const JsonFields& metadata, std::string_view key, Value::Kind kind) {
  const Value& value = metadata.required(key);
  if (!value.is_array()) metadata.wrong(key, value, "array");
  for (const Value& element : value.as_array())
    if (element.kind() != kind)
      fail(ErrorCode::BadInput, "{}: array of {}, expected {}", metadata.place(key),
           name(element.kind()), name(kind));
  return value.as_array();
}

constexpr std::array<std::pair<const char*, const char*>, 4> kRoleKeys = {{
    {"bos_token", "tokenizer.ggml.bos_token_id"},
    {"eos_token", "tokenizer.ggml.eos_token_id"},
    {"unk_token", "tokenizer.ggml.unknown_token_id"},
    {"pad_token", "tokenizer.ggml.padding_token_id"},
}};

// The token of an id key, nullptr when the key is absent.
const std::string* special_token(const JsonFields& metadata, const Value::Array& tokens,
                                 std::string_view key, int64_t& id) {
  if (!metadata.find(key)) return nullptr;
  id = metadata.required_integer(key, 0, std::ssize(tokens) - 1);
  return &tokens[static_cast<size_t>(id)].as_string();
}

// [BOS] text [EOS], as the add_bos_token and add_eos_token keys say; null when neither is added.
Value post_processor_json(const JsonFields& metadata, const Value::Array& tokens,
                          bool add_bos_default) {
  const bool add_bos = metadata.boolean("tokenizer.ggml.add_bos_token", add_bos_default);
  const bool add_eos = metadata.boolean("tokenizer.ggml.add_eos_token", false);
  Value::Array single, pair;
  Value::Object specials;
  const auto add_special = [&](std::string_view key, int type_id, bool to_single) {
    int64_t id = 0;
    const std::string* token = special_token(metadata, tokens, key, id);
    if (!token)
      fail(ErrorCode::BadInput, "{}: no key, but the token is to be added", metadata.place(key));
    const Value entry =
        Value::Object{{"SpecialToken", Value::Object{{"id", *token}, {"type_id", type_id}}}};
    if (to_single) single.push_back(entry);
    pair.push_back(entry);
    for (const auto& [name, value] : specials)
      if (name == *token) return;
    specials.emplace_back(
        *token,
        Value::Object{{"id", *token}, {"ids", Value::Array{id}}, {"tokens", Value::Array{*token}}});
  };
  for (int part = 0; part < 2; ++part) {
    if (add_bos) add_special("tokenizer.ggml.bos_token_id", part, part == 0);
    const Value text = Value::Object{
        {"Sequence", Value::Object{{"id", part == 0 ? "A" : "B"}, {"type_id", part}}}};
    if (part == 0) single.push_back(text);
    pair.push_back(text);
    if (add_eos) add_special("tokenizer.ggml.eos_token_id", part, part == 0);
  }
  if (specials.empty()) return {};
  return Value::Object{{"type", "TemplateProcessing"},
                       {"single", std::move(single)},
                       {"pair", std::move(pair)},
                       {"special_tokens", std::move(specials)}};
}

// Control tokens and those with a role (BOS ...) are special, user-defined ones are matched whole
// but printed; the file knows no lstrip, rstrip or single_word.
Value::Array added_tokens(const JsonFields& metadata, const Value::Array& tokens) {
  constexpr std::string_view key = "tokenizer.ggml.token_type";
  std::vector<int64_t> types(tokens.size(), 0);
  if (metadata.find(key)) {
    const Value::Array& found = array(metadata, key, Value::Kind::Int);
    if (found.size() != tokens.size())
      fail(ErrorCode::BadInput, "{}: {} entries for {} tokens", metadata.place(key), found.size(),
           tokens.size());
    for (size_t id = 0; id < types.size(); ++id) types[id] = found[id].as_int();
  }
  for (const auto& [role, role_key] : kRoleKeys) {
    int64_t id = 0;
    if (special_token(metadata, tokens, role_key, id) &&
        types[static_cast<size_t>(id)] != kUserDefined)
      types[static_cast<size_t>(id)] = kControl;
  }
  Value::Array added;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] != kControl && types[id] != kUserDefined) continue;
    if (tokens[id].as_string().empty())
      fail(ErrorCode::BadInput, "{}: added token {} is empty", metadata.place(key), id);
    added.push_back(Value::Object{{"id", static_cast<int64_t>(id)},
                                  {"content", tokens[id].as_string()},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", types[id] == kControl}});
  }
  return added;
}

// {token: id}; a token stands once.
Value vocab_json(const JsonFields& metadata, const Value::Array& tokens) {
  std::unordered_set<std::string_view> known;
  Value::Object vocab;
  vocab.reserve(tokens.size());
  for (const Value& token : tokens) {
    if (!known.insert(token.as_string()).second)
      fail(ErrorCode::BadInput, "{}: token \"{}\" occurs twice",
           metadata.place("tokenizer.ggml.tokens"), escaped(token.as_string()));
    vocab.emplace_back(token.as_string(), std::ssize(vocab));
  }
  return vocab;
}

// The file's merges. Each joins two tokens into a third: checked here, where the message can name
// the file's key.
const Value::Array& listed_merges(const JsonFields& metadata, const Value::Array& tokens) {
  constexpr std::string_view key = "tokenizer.ggml.merges";
  std::unordered_set<std::string_view> known;
  for (const Value& token : tokens) known.insert(token.as_string());
  const Value::Array& merges = array(metadata, key, Value::Kind::String);
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string& merge = merges[i].as_string();
    const size_t space = merge.find(' ', 1);
    const std::string_view left = std::string_view(merge).substr(0, space);
    const std::string_view right =
        space < merge.size() ? std::string_view(merge).substr(space + 1) : "";
    if (right.empty() || !known.contains(left) || !known.contains(right) ||
        !known.contains(std::string(left) + std::string(right)))
      fail(ErrorCode::BadInput, "{}: entry {} \"{}\" does not join two tokens into a third",
           metadata.place(key), i, escaped(merge));
  }
  return merges;
}

// The merges that the scores imply, as pairs: tokens may hold spaces.
Value::Array scored_merges(const JsonFields& metadata, const Value::Array& tokens) {
  constexpr std::string_view key = "tokenizer.ggml.scores";
  const Value& scores = metadata.required(key);
  if (!scores.is_array()) metadata.wrong(key, scores, "array");
  if (scores.as_array().size() != tokens.size())
    fail(ErrorCode::BadInput, "{}: {} entries for {} tokens", metadata.place(key),
         scores.as_array().size(), tokens.size());
  std::vector<double> numbers;
  for (const Value& score : scores.as_array()) {
    if (!score.is_number() || std::isnan(score.as_number()))
      fail(ErrorCode::BadInput, "{}: entry {} is no number", metadata.place(key), numbers.size());
    numbers.push_back(score.as_number());
  }
  std::vector<std::string> texts;
  for (const Value& token : tokens) texts.push_back(token.as_string());
  Value::Array merges;
  for (const auto& [left, right] :
       implied_merges(texts, numbers, metadata.place("tokenizer.ggml.tokens")))
    merges.push_back(
        Value::Array{texts[static_cast<size_t>(left)], texts[static_cast<size_t>(right)]});
  return merges;
}

Value bpe_json(Value vocab, Value::Array merges, Value unknown, bool sentencepiece,
               bool ignore_merges) {
  const Value affix = sentencepiece ? Value() : Value("");
  return Value::Object{{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", std::move(unknown)},
                       {"continuing_subword_prefix", affix},
                       {"end_of_word_suffix", affix},
                       {"fuse_unk", sentencepiece},
                       {"byte_fallback", sentencepiece},
                       {"ignore_merges", ignore_merges},
                       {"vocab", std::move(vocab)},
                       {"merges", std::move(merges)}};
}

// The sections of tokenizer.json in which the two kinds differ.
struct Stages {
  Value normalizer, pre_tokenizer, decoder, model;
  bool adds_bos = false;  // when tokenizer.ggml.add_bos_token is absent
};

Stages byte_level_stages(const JsonFields& metadata, const Value::Array& tokens) {
  const GgufPreTokenizer& pre = gguf_pre_tokenizer(metadata);
  Stages stages;
  if (pre.nfc) stages.normalizer = Value::Object{{"type", "NFC"}};
  stages.pre_tokenizer = pre_tokenizer_json(pre);
  stages.decoder = byte_level_json(true, true);
  Value vocab = vocab_json(metadata, tokens);
  stages.model = bpe_json(std::move(vocab), listed_merges(metadata, tokens), Value(), false,
                          pre.ignore_merges);
  stages.adds_bos = pre.adds_bos;
  return stages;
}

// Phi-3 puts its blank before every text, the others only before one that does not begin with a
// blank: nothing in the file says so, the architecture decides, as in transformers.
void set_blank_stages(const JsonFields& metadata, Stages& stages) {
  const Value replace = Value::Object{
      {"type", "Replace"}, {"pattern", Value::Object{{"String", " "}}}, {"content", kBlank}};
  const bool prefix = metadata.boolean("tokenizer.ggml.add_space_prefix", true);
  if (metadata.text("general.architecture", "") != "phi3") {
    stages.pre_tokenizer = Value::Object{{"type", "Metaspace"},
                                         {"replacement", kBlank},
                                         {"prepend_scheme", prefix ? "first" : "never"},
                                         {"split", false}};
  } else if (prefix) {
    const Value prepend = Value::Object{{"type", "Prepend"}, {"prepend", kBlank}};
    stages.normalizer =
        Value::Object{{"type", "Sequence"}, {"normalizers", Value::Array{prepend, replace}}};
  } else {
    stages.normalizer = replace;
  }
  Value::Array decoders = {
      Value::Object{
          {"type", "Replace"}, {"pattern", Value::Object{{"String", kBlank}}}, {"content", " "}},
      Value::Object{{"type", "ByteFallback"}}, Value::Object{{"type", "Fuse"}}};
  if (prefix)
    decoders.push_back(
        Value::Object{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  stages.decoder = Value::Object{{"type", "Sequence"}, {"decoders", std::move(decoders)}};
}

Stages sentencepiece_stages(const JsonFields& metadata, const Value::Array& tokens) {
  Stages stages;
  set_blank_stages(metadata, stages);
  int64_t id = 0;
  const std::string* unknown =
      special_token(metadata, tokens, "tokenizer.ggml.unknown_token_id", id);
  Value vocab = vocab_json(metadata, tokens);
  stages.model = bpe_json(std::move(vocab),
                          metadata.find("tokenizer.ggml.merges") ? listed_merges(metadata, tokens)
                                                                 : scored_merges(metadata, tokens),
                          unknown ? Value(*unknown) : Value(), true, false);
  stages.adds_bos = true;
  return stages;
}

Value tokenizer_config_json(const JsonFields& metadata, const Value::Array& tokens,
                            int64_t max_positions) {
  Value config = Value::Object{{"tokenizer_class", "PreTrainedTokenizerFast"},
                               {"clean_up_tokenization_spaces", false},
                               {"model_max_length", max_positions}};
  for (const auto& [role, key] : kRoleKeys) {
    int64_t id = 0;
    if (const std::string* token = special_token(metadata, tokens, key, id))
      config.set(role, *token);
  }
  return config;
}

}  // namespace

GgufTokenizer rebuild_tokenizer(const GgufFile& file, int64_t max_positions) {
  const JsonFields metadata(file.metadata(), file.path().string());
  const std::string kind = metadata.text("tokenizer.ggml.model", "");
  if (kind != "gpt2" && kind != "llama")
    fail(ErrorCode::BadInput,
         "{}: \"{}\"{} is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece "
         "BPE)",
         metadata.place("tokenizer.ggml.model"), escaped(kind),
         kind == "t5"     ? " (unigram)"
         : kind == "bert" ? " (WordPiece)"
                          : "");
  const Value::Array& tokens = array(metadata, "tokenizer.ggml.tokens", Value::Kind::String);
  if (tokens.empty() || std::ssize(tokens) > kMaxTokenId)
    fail(ErrorCode::BadInput, "{}: {} tokens", metadata.place("tokenizer.ggml.tokens"),
         tokens.size());

  Stages stages =
      kind == "gpt2" ? byte_level_stages(metadata, tokens) : sentencepiece_stages(metadata, tokens);
  GgufTokenizer tokenizer;
  tokenizer.tokenizer_json = Value::Object{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(metadata, tokens)},
      {"normalizer", std::move(stages.normalizer)},
      {"pre_tokenizer", std::move(stages.pre_tokenizer)},
      {"post_processor", post_processor_json(metadata, tokens, stages.adds_bos)},
      {"decoder", std::move(stages.decoder)},
      {"model", std::move(stages.model)},
  };
  tokenizer.tokenizer_config = tokenizer_config_json(metadata, tokens, max_positions);
  return tokenizer;
}

}  // namespace lema

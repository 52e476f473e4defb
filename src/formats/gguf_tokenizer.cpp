// tokenizer.json of a byte-level BPE vocabulary that a GGUF file carries as lists. The file names
// the way the text is cut into words (tokenizer.ggml.pre); the regular expressions are those of the
// tokenizers it names.
#include <array>
#include <unordered_set>

#include "formats/gguf_import.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

constexpr std::string_view kLlama3Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenSplit =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4oSplit =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// How one value of tokenizer.ggml.pre cuts text. No split: the GPT-2 regex inside ByteLevel, digits
// singled out before.
struct PreTokenizer {
  std::string_view name;
  std::string_view split = "";
  bool digits = false;
  bool nfc = false;            // normalizer of the Qwen family
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say
  bool adds_bos = false;       // when tokenizer.ggml.add_bos_token is absent
};
constexpr std::array<PreTokenizer, 14> kPreTokenizers = {{
    {"gpt-2"},
    {"phi-2"},
    {.name = "smollm", .digits = true},
    {.name = "starcoder", .digits = true},
    {.name = "llama-bpe", .split = kLlama3Split, .ignore_merges = true, .adds_bos = true},
    {.name = "llama3", .split = kLlama3Split, .ignore_merges = true, .adds_bos = true},
    {.name = "llama-v3", .split = kLlama3Split, .ignore_merges = true, .adds_bos = true},
    {.name = "dbrx", .split = kLlama3Split},
    {.name = "smaug-bpe", .split = kLlama3Split},
    {.name = "qwen2", .split = kQwen2Split, .nfc = true},
    {.name = "deepseek-r1-qwen", .split = kQwen2Split, .nfc = true},
    {.name = "qwen35", .split = kQwen35Split, .nfc = true},
    {.name = "tekken", .split = kTekkenSplit, .ignore_merges = true, .adds_bos = true},
    {.name = "gpt-4o", .split = kGpt4oSplit},
}};

// Values of tokenizer.ggml.token_type.
constexpr int64_t kControl = 3, kUserDefined = 4;
constexpr int64_t kMaxTokenId = int64_t{1} << 24;

const PreTokenizer& pre_tokenizer(const JsonFields& metadata) {
  const std::string name = metadata.text("tokenizer.ggml.pre", "");
  std::string known;
  for (const PreTokenizer& pre : kPreTokenizers) {
    if (pre.name == name) return pre;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", pre.name);
  }
  fail(ErrorCode::BadInput, "{}: \"{}\" is not supported; supported: {}",
       metadata.place("tokenizer.ggml.pre"), escaped(name), known);
}

const Value::Array& array(const JsonFields& metadata, std::string_view key, Value::Kind kind) {
  const Value& value = metadata.required(key);
  if (!value.is_array()) metadata.wrong(key, value, "array");
  for (const Value& element : value.as_array())
    if (element.kind() != kind)
      fail(ErrorCode::BadInput, "{}: array of {}, expected {}", metadata.place(key),
           name(element.kind()), name(kind));
  return value.as_array();
}

Value byte_level(bool add_prefix_space, bool use_regex) {
  return Value::Object{{"type", "ByteLevel"},
                       {"add_prefix_space", add_prefix_space},
                       {"trim_offsets", true},
                       {"use_regex", use_regex}};
}

Value pre_tokenizer_json(const PreTokenizer& pre) {
  if (!pre.split.empty()) {
    Value split = Value::Object{{"type", "Split"},
                                {"pattern", Value::Object{{"Regex", pre.split}}},
                                {"behavior", "Isolated"},
                                {"invert", false}};
    return Value::Object{
        {"type", "Sequence"},
        {"pretokenizers", Value::Array{std::move(split), byte_level(false, false)}}};
  }
  if (!pre.digits) return byte_level(false, true);
  Value digits = Value::Object{{"type", "Digits"}, {"individual_digits", true}};
  return Value::Object{{"type", "Sequence"},
                       {"pretokenizers", Value::Array{std::move(digits), byte_level(false, true)}}};
}

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

// Control tokens are special, user-defined ones are matched whole but printed; the file knows no
// lstrip, rstrip or single_word.
Value::Array added_tokens(const JsonFields& metadata, const Value::Array& tokens) {
  constexpr std::string_view key = "tokenizer.ggml.token_type";
  Value::Array added;
  if (!metadata.find(key)) return added;
  const Value::Array& types = array(metadata, key, Value::Kind::Int);
  if (types.size() != tokens.size())
    fail(ErrorCode::BadInput, "{}: {} entries for {} tokens", metadata.place(key), types.size(),
         tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    const int64_t type = types[id].as_int();
    if (type != kControl && type != kUserDefined) continue;
    if (tokens[id].as_string().empty())
      fail(ErrorCode::BadInput, "{}: added token {} is empty", metadata.place(key), id);
    added.push_back(Value::Object{{"id", static_cast<int64_t>(id)},
                                  {"content", tokens[id].as_string()},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", type == kControl}});
  }
  return added;
}

// Every merge joins two tokens into a third: checked here, where the message can name the file's
// key.
Value bpe_model(const JsonFields& metadata, const Value::Array& tokens, bool ignore_merges) {
  std::unordered_set<std::string_view> known;
  Value::Object vocab;
  vocab.reserve(tokens.size());
  for (const Value& token : tokens) {
    if (!known.insert(token.as_string()).second)
      fail(ErrorCode::BadInput, "{}: token \"{}\" occurs twice",
           metadata.place("tokenizer.ggml.tokens"), escaped(token.as_string()));
    vocab.emplace_back(token.as_string(), std::ssize(vocab));
  }
  const Value::Array& merges = array(metadata, "tokenizer.ggml.merges", Value::Kind::String);
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string& merge = merges[i].as_string();
    const size_t space = merge.find(' ', 1);
    const std::string_view left = std::string_view(merge).substr(0, space);
    const std::string_view right =
        space < merge.size() ? std::string_view(merge).substr(space + 1) : "";
    if (right.empty() || !known.contains(left) || !known.contains(right) ||
        !known.contains(std::string(left) + std::string(right)))
      fail(ErrorCode::BadInput, "{}: entry {} \"{}\" does not join two tokens into a third",
           metadata.place("tokenizer.ggml.merges"), i, escaped(merge));
  }
  return Value::Object{{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", ""},
                       {"end_of_word_suffix", ""},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", ignore_merges},
                       {"vocab", std::move(vocab)},
                       {"merges", merges}};
}

Value tokenizer_config_json(const JsonFields& metadata, const Value::Array& tokens,
                            int64_t max_positions) {
  Value config = Value::Object{{"tokenizer_class", "PreTrainedTokenizerFast"},
                               {"clean_up_tokenization_spaces", false},
                               {"model_max_length", max_positions}};
  constexpr std::array<std::pair<const char*, const char*>, 4> kRoles = {{
      {"bos_token", "tokenizer.ggml.bos_token_id"},
      {"eos_token", "tokenizer.ggml.eos_token_id"},
      {"unk_token", "tokenizer.ggml.unknown_token_id"},
      {"pad_token", "tokenizer.ggml.padding_token_id"},
  }};
  for (const auto& [role, key] : kRoles) {
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
  if (kind != "gpt2")
    fail(ErrorCode::BadInput, "{}: \"{}\" is not supported; supported: gpt2 (byte-level BPE)",
         metadata.place("tokenizer.ggml.model"), escaped(kind));
  const PreTokenizer& pre = pre_tokenizer(metadata);
  const Value::Array& tokens = array(metadata, "tokenizer.ggml.tokens", Value::Kind::String);
  if (tokens.empty() || std::ssize(tokens) > kMaxTokenId)
    fail(ErrorCode::BadInput, "{}: {} tokens", metadata.place("tokenizer.ggml.tokens"),
         tokens.size());

  GgufTokenizer tokenizer;
  tokenizer.tokenizer_json = Value::Object{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(metadata, tokens)},
      {"normalizer", pre.nfc ? Value(Value::Object{{"type", "NFC"}}) : Value()},
      {"pre_tokenizer", pre_tokenizer_json(pre)},
      {"post_processor", post_processor_json(metadata, tokens, pre.adds_bos)},
      {"decoder", byte_level(true, true)},
      {"model", bpe_model(metadata, tokens, pre.ignore_merges)},
  };
  tokenizer.tokenizer_config = tokenizer_config_json(metadata, tokens, max_positions);
  return tokenizer;
}

}  // namespace lema

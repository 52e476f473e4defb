// The table of names that llama.cpp's converter writes. Each row is the pre-tokenizer of the
// tokenizer.json behind the name. Names of encoders, and of tokenizers that are no byte-level BPE
// with plain splits (superbpe, kimi-k2, gemma4 ...), are not in it.
#include "formats/gguf_pre_tokenizers.h"

#include "core/error.h"

namespace lema {
namespace {

constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kJais2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|)"
    R"(\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})";
constexpr std::string_view kMiniCpm5 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)"
    R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kUfakzeka =
    R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kSeedCoder =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}|)"
    R"( ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBailing = R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                                      R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kExaoneMoe =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kYoutu =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kYoutuScripts =
    R"([가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+)";
constexpr std::string_view kDigitTriples = R"(\p{N}{1,3})";
constexpr std::string_view kHanKana = R"([一-龥぀-ゟ゠-ヿ]+)";
constexpr std::string_view kDeepSeek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kSpark =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+)";
// Cased letters; those that Unicode normalisation would rewrite are spelled by number.
constexpr std::string_view kDeepSeekLetters =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-Ჺ)"
    R"(Ჽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-)"
    "\u1F7D"
    R"(ᾀ-ᾴᾶ-ᾼ)"
    "\u1FBE"
    R"(ῂ-ῄῆ-ῌῐ-)"
    "\u1FD3"
    R"(ῖ-)"
    "\u1FDB"
    R"(ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ)"
    "\u2126"
    R"(ℨ)"
    "\u212A"
    R"(-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-)"
    R"(𐳲𑢠-𑣟𞤀-𞥃]+)";
constexpr std::string_view kDeepSeekPunctuation = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";
constexpr std::string_view kHanHangul = R"([一-龥ࠀ-一가-퟿]+)";
constexpr std::string_view kBloom = R"( ?[^(\s|.,!?…。，、।۔،)]+)";
constexpr std::string_view kLines = R"([^\n]+|[\n]+)";
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr GgufPreTokenizer kPreTokenizers[] = {
    {"gpt-2"},
    {"phi-2"},
    {"jais"},
    {"trillion"},
    {"granite-docling"},
    {"exaone4"},
    {"gigachat"},
    {"a.x-4.0"},
    {"mellum"},
    {.name = "mpt", .nfc = true},
    {.name = "olmo", .nfc = true},
    {.name = "smollm", .digits = true},
    {.name = "starcoder", .digits = true},
    {.name = "refact", .digits = true},
    {.name = "codeshell", .digits = true},
    {.name = "exaone", .digits = true},
    {.name = "minerva-7b", .digits = true},
    {.name = "mellum2", .digits = true},
    {.name = "command-r", .digits = true, .nfc = true},
    {.name = "llama-bpe", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "llama3", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "llama-v3", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "falcon3", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "falcon-h1", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "pixtral", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "midm-2.0", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "lfm2", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "jina-v5-nano", .splits = {kLlama3}, .ignore_merges = true, .adds_bos = true},
    {.name = "dbrx", .splits = {kLlama3}},
    {.name = "smaug-bpe", .splits = {kLlama3}},
    {.name = "glm4", .splits = {kLlama3}},
    {.name = "chatglm-bpe", .splits = {kLlama3}},
    {.name = "jais-2", .splits = {kJais2}},
    {.name = "minicpm5", .splits = {kDigitTriples, kMiniCpm5}, .ignore_merges = true},
    {.name = "qwen2", .splits = {kQwen2}, .nfc = true},
    {.name = "deepseek-r1-qwen", .splits = {kQwen2}, .nfc = true},
    {.name = "f2llmv2", .splits = {kQwen2}, .nfc = true},
    {.name = "qwen35", .splits = {kQwen35}, .nfc = true},
    {.name = "kormo", .splits = {kQwen2}},
    {.name = "megrez", .splits = {kQwen2}},
    {.name = "stablelm2", .splits = {kQwen2}},
    {.name = "hunyuan", .splits = {kQwen2}},
    {.name = "solar-open", .splits = {kQwen2}},
    {.name = "grok-2", .splits = {kQwen2}},
    {.name = "laguna", .splits = {kLines, kQwen2}},
    {.name = "ufakzeka", .splits = {kUfakzeka}},
    {.name = "seed-coder", .splits = {kSeedCoder}},
    {.name = "bailingmoe", .splits = {kBailing}},
    {.name = "bailingmoe2", .splits = {kBailing}},
    {.name = "llada-moe", .splits = {kBailing}},
    {.name = "exaone-moe", .splits = {kExaoneMoe}},
    {.name = "tekken", .splits = {kTekken}, .ignore_merges = true, .adds_bos = true},
    {.name = "gpt-4o", .splits = {kGpt4o}},
    {.name = "llama4", .splits = {kGpt4o}},
    {.name = "kanana2", .splits = {kGpt4o}},
    {.name = "talkie", .splits = {kGpt4o}},
    {.name = "minimax-m2", .splits = {kGpt4o}},
    {.name = "tiny_aya", .splits = {R"(\d{1,3}(?=(?:\d{3})*\b))", kGpt4o}},
    {.name = "cohere2moe", .splits = {R"(\d{1,3}(?=(?:\d{3})*\b))", kGpt4o}},
    {.name = "youtu", .splits = {kYoutuScripts, kYoutu}, .ignore_merges = true},
    {.name = "deepseek-llm",
     .splits = {"[\r\n]", kDeepSeekLetters, kDeepSeekPunctuation, R"(\s+$)", kHanHangul,
                R"(\p{N}+)"}},
    {.name = "deepseek-coder",
     .splits = {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kHanHangul, R"(\p{N})"}},
    {.name = "deepseek-v3", .splits = {kDigitTriples, kHanKana, kDeepSeek3}},
    {.name = "hunyuan-dense", .splits = {kDigitTriples, kHanKana, kDeepSeek3}},
    {.name = "joyai-llm", .splits = {kDigitTriples, kHanKana, kDeepSeek3}},
    {.name = "hy_v4", .splits = {kDigitTriples, kHanKana, kDeepSeek3}},
    {.name = "spark2_5", .splits = {kDigitTriples, kHanKana, kSpark, R"(\p{N})"}},
    {.name = "falcon", .splits = {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, "[0-9][0-9][0-9]"}},
    {.name = "bloom", .splits = {kBloom}},
    {.name = "poro-chat", .splits = {kBloom}},
    {.name = "gpt3-finnish", .splits = {kBloom}},
    {.name = "viking", .splits = {kBloom, R"(\p{N})"}},
};

}  // namespace

const GgufPreTokenizer& gguf_pre_tokenizer(const JsonFields& metadata) {
  constexpr std::string_view key = "tokenizer.ggml.pre";
  const bool is_gpt2 = metadata.text("general.architecture", "") == "gpt2";
  if (!metadata.find(key) && !is_gpt2)
    fail(ErrorCode::BadInput,
         "{}: no key; the file is older than it and does not say how its text is cut into words; "
         "convert the model again",
         metadata.place(key));
  const std::string name = metadata.text(key, "gpt-2");
  std::string known;
  for (const GgufPreTokenizer& pre : kPreTokenizers) {
    if (pre.name == name) return pre;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", pre.name);
  }
  fail(ErrorCode::BadInput, "{}: \"{}\" is not supported; supported: {}", metadata.place(key),
       escaped(name), known);
}

const GgufPreTokenizer& named_pre_tokenizer(std::string_view name) {
  for (const GgufPreTokenizer& pre : kPreTokenizers)
    if (pre.name == name) return pre;
  fail(ErrorCode::Internal, "no pre-tokenizer {}", name);
}

Value byte_level_json(bool add_prefix_space, bool use_regex) {
  return Value::Object{{"type", "ByteLevel"},
                       {"add_prefix_space", add_prefix_space},
                       {"trim_offsets", true},
                       {"use_regex", use_regex}};
}

Value pre_tokenizer_json(const GgufPreTokenizer& pre) {
  Value::Array stages;
  if (pre.digits) stages.push_back(Value::Object{{"type", "Digits"}, {"individual_digits", true}});
  for (const std::string_view split : pre.splits)
    if (!split.empty())
      stages.push_back(Value::Object{{"type", "Split"},
                                     {"pattern", Value::Object{{"Regex", split}}},
                                     {"behavior", "Isolated"},
                                     {"invert", false}});
  stages.push_back(byte_level_json(false, pre.splits[0].empty()));
  if (stages.size() == 1) return stages[0];
  return Value::Object{{"type", "Sequence"}, {"pretokenizers", std::move(stages)}};
}

}  // namespace lema

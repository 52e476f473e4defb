// Checks the two files against each other and writes them as one tokenizer.json.
#include "formats/vocab_merges.h"

#include <algorithm>
#include <unordered_set>

#include "core/error.h"
#include "formats/tokenizer_parts.h"

namespace lema {
namespace {

constexpr size_t kMaxMerges = 8'000'000;

// The pre-tokenizer of a class, by its name.
const char* words_of(const std::string& tokenizer_class, const std::string& place) {
  std::string_view name = tokenizer_class;
  if (name.ends_with("Fast")) name.remove_suffix(4);
  if (name == "GPT2Tokenizer" || name == "CodeGenTokenizer") return "gpt-2";
  if (name == "Qwen2Tokenizer") return "qwen2";
  fail(ErrorCode::BadInput,
       "{}: vocab.json and merges.txt do not say how text is cut into words, and tokenizer_class "
       "\"{}\" is not supported for them; supported: GPT2Tokenizer, CodeGenTokenizer, "
       "Qwen2Tokenizer",
       place, escaped(tokenizer_class));
}

std::unordered_set<std::string_view> read_vocab(const Value& vocab, const std::string& place) {
  if (!vocab.is_object())
    fail(ErrorCode::BadInput, "{}: found {}, expected an object", place, name(vocab.kind()));
  std::unordered_set<std::string_view> tokens;
  std::unordered_set<int64_t> ids;
  for (const auto& [token, id] : vocab.as_object()) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() >= kMaxTokens)
      fail(ErrorCode::BadInput, "{}:{}: \"{}\": the id is no integer from 0 to {}", place, id.line,
           escaped(token), kMaxTokens - 1);
    if (!ids.insert(id.as_int()).second)
      fail(ErrorCode::BadInput, "{}:{}: id {} is given twice", place, id.line, id.as_int());
    tokens.insert(token);
  }
  return tokens;
}

Value::Array read_merges(std::string_view text, const std::unordered_set<std::string_view>& tokens,
                         const std::string& place) {
  Value::Array merges;
  std::unordered_set<std::string_view> known;
  std::string product;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    const size_t space = line.find(' ');
    if (space == 0 || space >= line.size() - 1 || line.find(' ', space + 1) < line.size())
      fail(ErrorCode::BadInput, "{}:{}: expected two tokens with a space between them", place,
           number);
    const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
    product.assign(left).append(right);
    for (const std::string_view token : {left, right, std::string_view(product)})
      if (!tokens.contains(token))
        fail(ErrorCode::BadInput, "{}:{}: \"{}\" is not in vocab.json", place, number,
             escaped(token));
    if (!known.insert(line).second)
      fail(ErrorCode::BadInput, "{}:{}: \"{}\" is given twice", place, number, escaped(line));
    if (merges.size() == kMaxMerges)
      fail(ErrorCode::BadInput, "{}: more than {} merges", place, kMaxMerges);
    merges.push_back(line);
  }
  return merges;
}

}  // namespace

Value vocab_merges_tokenizer_json(const Value& vocab, std::string_view merges,
                                  const std::string& tokenizer_class, bool add_prefix_space,
                                  const std::string& place) {
  const GgufPreTokenizer& words = named_pre_tokenizer(words_of(tokenizer_class, place));
  const auto tokens = read_vocab(vocab, place + "/vocab.json");
  Value::Array pairs = read_merges(merges, tokens, place + "/merges.txt");
  Value pre_tokenizer = pre_tokenizer_json(words);
  if (words.splits[0].empty()) pre_tokenizer.set("add_prefix_space", add_prefix_space);
  Value::Object model{{"type", "BPE"}};
  model.emplace_back("vocab", vocab);
  model.emplace_back("merges", std::move(pairs));  // a list in braces would copy it
  Value::Object json{
      {"added_tokens", Value::Array{}},
      {"normalizer", words.nfc ? Value(Value::Object{{"type", "NFC"}}) : Value()},
      {"pre_tokenizer", std::move(pre_tokenizer)},
      {"post_processor", nullptr},
      {"decoder", byte_level_json(false, true)}};
  json.emplace_back("model", std::move(model));
  return json;
}

}  // namespace lema

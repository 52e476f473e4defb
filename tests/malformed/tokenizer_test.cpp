// Malformed and hostile tokenizers: tokenizer.json, SentencePiece's and tiktoken's tokenizer.model.
// Cases beyond those of tests/unit/text_tokenizer_test.cpp and formats_tokenizer_files_test.cpp.
#include "text/tokenizer.h"

#include "formats/config_tokens.h"
#include "formats/json.h"
#include "formats/sentencepiece_model.h"
#include "formats/tiktoken.h"
#include "support/malformed.h"
#include "support/tiny_text.h"

using namespace lema;

namespace {

void load(const std::string& bytes) {
  Tokenizer::from_json(parse_json(bytes, "tokenizer.json", kTokenizerJsonLimits), nullptr);
}

// A sound tokenizer but for one member of the file, or of its model.
std::string with(std::string_view member, std::string_view value) {
  const std::string model =
      R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"<s>":3},"merges":["a b"]})";
  return fmt::format(R"({{"{}":{}{}}})", member, value,
                     member == "model" ? "" : ",\"model\":" + model);
}
std::string with_model(std::string_view member, std::string_view value) {
  std::string model = "{";
  for (const auto& [key, usual] : {std::pair<std::string, std::string>{"type", "\"BPE\""},
                                   {"vocab", R"({"a":0,"b":1,"ab":2,"<s>":3})"},
                                   {"merges", R"(["a b"])"}})
    if (key != member) model += fmt::format("\"{}\":{},", key, usual);
  return with("model", model + fmt::format("\"{}\":{}}}", member, value));
}

// A post-processor that puts <s> before a text, and what it says of its tokens.
std::string framed(std::string_view specials) {
  return with(
      "post_processor",
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}],)" +
          fmt::format("\"special_tokens\":{{{}}}}}", specials));
}
std::string split(std::string_view regex) {
  return with(
      "pre_tokenizer",
      fmt::format(R"({{"type":"Split","pattern":{{"Regex":"{}"}},"behavior":"Isolated"}})", regex));
}

std::vector<Malformed> each(std::string_view member, std::initializer_list<const char*> values,
                            std::string_view part, bool in_model = false) {
  std::vector<Malformed> cases;
  for (const char* value : values)
    cases.push_back({fmt::format("{} {}", member, value),
                     in_model ? with_model(member, value) : with(member, value),
                     std::string(part)});
  return cases;
}

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
std::string field(uint64_t number, std::string_view bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + std::string(bytes);
}
std::string piece(std::string_view text, int type = 1) {
  return field(1, field(1, text) + varint(3 << 3) + varint(static_cast<uint64_t>(type)));
}
const std::string kTrainer = field(2, varint(3 << 3) + varint(2));

}  // namespace

TEST_CASE("tokenizer.json: sections of another type") {
  CHECK_NOTHROW(load(with("version", "\"1.0\"")));
  std::vector<Malformed> cases;
  const auto add = [&](std::vector<Malformed> more) {
    cases.insert(cases.end(), more.begin(), more.end());
  };
  add(each("model", {"null", "1", "[]", "\"BPE\"", "{}"}, "tokenizer.json: model"));
  add(each("type", {"1", "\"bpe\"", "\"Unigram\"", "\"\\u001b[2J\""}, "model", true));
  add(each("vocab", {"null", "[]", "[[\"a\", 0]]", "\"a\"", "3"}, "model", true));
  add(each("merges", {"null", "{}", "\"a b\"", "3"}, "model.merges: found", true));
  add(each("merges",
           {"[1]", "[null]", "[[\"a\"]]", "[[\"a\",\"b\",\"c\"]]", "[[1,2]]", "[\"ab\"]", "[\"\"]"},
           "model.merges[0]: expected", true));
  add(each("merges",
           {"[\"a  b\"]", "[\"a c\"]", "[\" b\"]", "[\"b a\"]", "[[\"\",\"a\"]]", "[[\"a\",\"\"]]"},
           "model.merges[0]", true));
  add(each("unk_token", {"1", "[]", "\"\\u001b[2J\""}, "unk_token", true));
  add(each("dropout", {"0.1", "1", "\"0\"", "true"}, "dropout", true));
  for (const char* flag : {"fuse_unk", "byte_fallback", "ignore_merges"})
    add(each(flag, {"1", "\"true\"", "[]"}, flag, true));
  for (const char* section : {"normalizer", "pre_tokenizer", "decoder", "post_processor"})
    add(each(section, {"1", "[]", "\"NFC\"", "{}", "{\"type\":1}", "{\"type\":\"\\u001b[2J\"}"},
             section));
  add(each("added_tokens",
           {"{}", "1", "\"<s>\"", "[1]", "[null]", "[{}]", "[{\"id\":0}]", "[{\"content\":\"x\"}]",
            "[{\"id\":\"4\",\"content\":\"x\"}]", "[{\"id\":4.0,\"content\":\"x\"}]",
            "[{\"id\":4,\"content\":1}]", "[{\"id\":4,\"content\":\"\"}]",
            "[{\"id\":-1,\"content\":\"x\"}]", "[{\"id\":0,\"content\":\"x\"}]",
            "[{\"id\":4,\"content\":\"a\"}]", "[{\"id\":9223372036854775807,\"content\":\"x\"}]",
            "[{\"id\":2147483648,\"content\":\"x\"}]"},
           "added_tokens"));
  expect_refused(cases, "tokenizer.json", load);
}

TEST_CASE("tokenizer.json: ids, sizes and stages") {
  std::vector<Malformed> cases = {
      {"an id beyond 32 bits", with_model("vocab", R"({"a":4294967296})"), "expected 0 to 3999999"},
      {"an id of 2^63 - 1", with_model("vocab", R"({"a":9223372036854775807})"), "expected 0 to"},
      {"a negative id", with_model("vocab", R"({"a":-2147483649})"), "expected 0 to"},
      {"ids with a gap that costs memory", with_model("vocab", R"({"a":3999999})"),
       "tokenizer.json"},
      {"an id twice", with_model("vocab", R"({"a":0,"b":0})"),
       "id 0 is given to \"a\" and to \"b\""},
      {"a token twice", with_model("vocab", R"({"a":0,"a":1})"), "duplicate key \"a\""},
      {"a token of 1 MB", with_model("vocab", "{\"" + repeat("x", 1 << 20) + "\":0}"),
       "1048576 bytes"},
      {"a terminal escape as token", with_model("vocab", R"({"\u001b[2J":"0"})"),
       "token \"\\x1b[2J\""},
      {"a merge of a terminal escape", with_model("merges", R"(["\u001b[2J a"])"),
       "\"\\x1b[2J\" is not in vocab"},
      {"1,000 deep", with("normalizer", repeat(R"({"type":"Sequence","normalizers":[)", 1000)),
       "nested deeper than 64"},
      {"9 stages in each other",
       with("pre_tokenizer", repeat(R"({"type":"Sequence","pretokenizers":[)", 9) +
                                 "{\"type\":\"Digits\"}" + repeat("]}", 9)),
       "nested more than 8 deep"},
      {"a regex that is none",
       with("pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"})"),
       "pre_tokenizer"},
      {"a regex of 1 MB",
       with("pre_tokenizer", R"({"type":"Split","pattern":{"Regex":")" + repeat("(a", 1 << 19) +
                                 R"("},"behavior":"Isolated"})"),
       "pre_tokenizer"},
      {"a regex of many repeats", split("((((a{1,60000}){1,60000}){1,60000}){1,60000})"),
       "pre_tokenizer"},
      {"no pattern", with("pre_tokenizer", R"({"type":"Split","behavior":"Isolated"})"),
       "pattern is missing"},
      {"a pattern of no kind",
       with("pre_tokenizer", R"({"type":"Split","pattern":{"Glob":"a"},"behavior":"Isolated"})"),
       "pattern"},
      {"an unknown behavior",
       with("pre_tokenizer", R"({"type":"Split","pattern":{"String":"a"},"behavior":"Shuffled"})"),
       "behavior"},
      {"a Strip of two characters",
       with("decoder", R"({"type":"Strip","content":"ab","start":0,"stop":0})"),
       "expected one character"},
      {"a Strip of text numbers",
       with("decoder", R"({"type":"Strip","content":"a","start":"0","stop":0})"), "decoder"},
      {"a Replace by a regex",
       with("decoder", R"({"type":"Replace","pattern":{"Regex":"a"},"content":"b"})"),
       "regular expression"},
      {"a post-processor's unknown id", framed(""), "post_processor"},
      {"a post-processor's id beyond the tokens",
       framed(R"("<s>":{"id":"<s>","ids":[99],"tokens":["<s>"]})"), "an id that no token has"},
      {"a post-processor's negative id",
       framed(R"("<s>":{"id":"<s>","ids":[-1],"tokens":["<s>"]})"), "an id that no token has"},
      {"nothing", "", "tokenizer.json:1:1: "},
      {"a list", "[]", "found array, expected object"},
      {"a git-lfs pointer", "version https://git-lfs.github.com/spec/v1\n", "tokenizer.json:1:1: "},
  };
  expect_refused(cases, "tokenizer.json", load);
}

TEST_CASE("tokenizer_config.json and added_tokens.json: names of many tokens") {
  std::string names, ids;
  for (int i = 0; i < 50'000; ++i) {
    names += fmt::format("{}\"{}_token\":\"{}\"", i ? "," : "", i, i);
    ids += fmt::format("{}\"<{}>\":{}", i ? "," : "", i, testing::kTinyVocabulary + i);
  }
  const auto config = [](const std::string& bytes) {
    TextSources sources = testing::tiny_sources();
    sources.tokenizer_config = parse_json(bytes, "tokenizer_config.json");
    ModelText{sources};
  };
  const Value named = parse_json("{\"extra_special_tokens\":{" + names + "}}", "config");
  const auto added = [&](const std::string& bytes) {
    const Value tokens = parse_json(bytes, "added_tokens.json");
    Value tokenizer = testing::tiny_tokenizer_json();
    add_config_tokens(tokenizer, {named, nullptr, &tokens, "added_tokens.json"});
  };
  expect_accepted({"{" + names + "}", "{\"extra_special_tokens\":{" + names + "}}"}, config);
  expect_accepted({"{" + ids + "}"}, added);
}

TEST_CASE("tokenizer.model: protobuf that is none, by the classes of recorded faults") {
  const auto read = [](const std::string& bytes) { read_sentencepiece(bytes, "tokenizer.model"); };
  const std::string good = piece("<unk>", 2) + piece("a");
  CHECK_NOTHROW(read(good + kTrainer));
  std::vector<Malformed> cases = {
      {"zeros", std::string(64, '\0'), "byte 0"},
      {"0xFF", std::string(64, '\xff'), "more than 10 bytes"},
      {"a web page", "<!DOCTYPE html><html></html>", "tokenizer.model: byte"},
      // CVE-2026-1260 and its kin: lengths beyond the message.
      {"a piece longer than the file", good + "\x0a\x7f", "ends within a field"},
      {"a length of 2^63", good + "\x0a" + varint(uint64_t{1} << 63), "ends within a field"},
      {"a length of 2^64 - 1", good + "\x0a" + varint(~uint64_t{0}), "ends within a field"},
      {"a length of 2^32", good + "\x0a" + varint(uint64_t{1} << 32), "ends within a field"},
      {"an inner length beyond its piece",
       good + field(1,
                    "\x0a\x05"
                    "ab"),
       "ends within a field"},
      {"a varint of 11 bytes", good + "\x08" + std::string(11, '\x80'), "more than 10 bytes"},
      {"a field number of 0", good + std::string("\x02\x00", 2), "no protobuf field"},
      {"a field number of 2^29", good + varint((uint64_t{1} << 29) << 3) + "\x01",
       "no protobuf field"},
      {"a group", good + "\x0b", "no protobuf field"},
      {"wire type 7", good + "\x0f", "no protobuf field"},
      {"a score cut short", good + field(1, field(1, "q") + "\x15\x01"), "ends within a field"},
      {"a score as text", good + field(1, field(1, "q") + field(2, "1.0")), "not of its kind"},
      {"a type as text", good + field(1, field(1, "q") + field(3, "1")), "not of its kind"},
      {"a type of -1", good + field(1, field(1, "q") + "\x18" + varint(~uint64_t{0})),
       "has type -1"},
      {"a trainer as number", good + "\x10\x01", "not of its kind"},
      {"a million empty fields", good + repeat(std::string("\x0a\x00", 2), 1'000'000),
       "tokenizer.model: "},
      {"a terminal escape given twice", good + piece("\x1b[2J") + piece("\x1b[2J") + kTrainer,
       "\\x1b[2J"},
  };
  expect_refused(cases, "tokenizer.model", read);
}

TEST_CASE("tokenizer.model: character maps that lie about their sizes") {
  const auto load_model = [](const std::string& map) {
    const std::string bytes = piece("<unk>", 2) + piece("a") + kTrainer + field(3, field(2, map));
    Tokenizer::from_json(
        sentencepiece_tokenizer_json(read_sentencepiece(bytes, "tokenizer.model"), "always"),
        nullptr);
  };
  const std::string unit(4, '\0');
  CHECK_NOTHROW(load_model(std::string("\4\0\0\0", 4) + unit));
  std::vector<Malformed> cases = {
      {"no size", std::string("\4\0\0", 3), "character map of 3 bytes"},
      {"a trie of 0", unit + unit, "its trie has 0"},
      {"a trie of no whole units", std::string("\5\0\0\0", 4) + unit + unit, "its trie has 5"},
      {"a trie longer by a unit", std::string("\10\0\0\0", 4) + unit, "its trie has 8"},
      {"a trie of 2^32 - 4", std::string("\xfc\xff\xff\xff", 4) + unit, "its trie has 4294967292"},
      {"strings that are no UTF-8", std::string("\4\0\0\0", 4) + unit + "\xff", "not UTF-8"},
  };
  expect_refused(cases, "", load_model);
}

TEST_CASE("tokenizer.model: rank files that are none") {
  const auto read = [](const std::string& bytes) { read_tiktoken(bytes, "tokenizer.model"); };
  const std::vector<Malformed> cases = {
      {"a rank of 2^63", "IQ== 9223372036854775808\n", "tokenizer.model:1"},
      {"a rank of 2^32", "IQ== 4294967296\n", "tokenizer.model:1"},
      {"a negative rank", "IQ== -1\n", "tokenizer.model:1"},
      {"a rank that is none", "IQ== 1x\n", "tokenizer.model:1"},
      {"no rank", "IQ==\n", "tokenizer.model:1"},
      {"two blanks", "IQ==  0\n", "tokenizer.model:1"},
      {"base64 of 3 digits", "IQ= 0\n", "tokenizer.model:1"},
      {"base64 with a hole", "I Q== 0\n", "tokenizer.model:1"},
      {"a rank twice", "IQ== 0\nIg== 0\n", "tokenizer.model"},
      {"a token twice", "IQ== 0\nIQ== 1\n", "tokenizer.model"},
      {"a terminal escape", "IQ== \x1b[2J\n", "tokenizer.model:1"},
      {"a line of 1 MB", repeat("QUFB", 1 << 18) + " 0\n", "tokenizer.model"},
      {"a million lines of rank 0", repeat("IQ== 0\n", 1'000'000), "tokenizer.model"},
  };
  expect_refused(cases, "tokenizer.model", read);
}

// Tokenizer and its stages on vocabularies small enough to work out by hand. Parity with the
// tokenizers library at scale is tests/parity/tokenizer_test.py.
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "support/catch.h"
#include "support/peak_memory.h"
#include "core/byte_level.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

using namespace lema;

namespace {

using Ids = std::vector<int32_t>;
using Begins = std::vector<int64_t>;
using Object = Value::Object;
using Array = Value::Array;

Value byte_level(bool prefix_space = false) {
  return Object{{"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"use_regex", true}};
}

std::string spelled(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_utf8(out, byte_level_character(static_cast<uint8_t>(c)));
  return out;
}

Value added(int64_t id, const std::string& content, const std::vector<std::string>& flags = {}) {
  Value token = Object{{"id", id}, {"content", content}};
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized", "special"})
    token.set(flag, std::find(flags.begin(), flags.end(), flag) != flags.end());
  return token;
}

// Ids 0-255 are the bytes; then "he" 256, "ll" 257, "llo" 258, "hello" 259, " hello" 260, "ab" 261,
// "bc" 262.
Value small_json() {
  Object vocab;
  for (int b = 0; b < 256; ++b)
    vocab.emplace_back(spelled(std::string(1, static_cast<char>(b))), b);
  int id = 256;
  for (const char* token : {"he", "ll", "llo", "hello", " hello", "ab", "bc"})
    vocab.emplace_back(spelled(token), id++);
  const Array merges = {"h e", Array{"l", "l"}, "ll o", "he llo", spelled(" ") + " hello", "b c",
                        "a b"};
  const Value model = Object{{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}};
  return Object{{"added_tokens", Array{}},       {"normalizer", nullptr},
                {"pre_tokenizer", byte_level()}, {"post_processor", nullptr},
                {"decoder", byte_level()},       {"model", model}};
}

Value with(std::string_view key, Value value) {
  Value json = small_json();
  json.set(key, std::move(value));
  return json;
}

Value with_model(std::string_view key, Value value) {
  Value json = small_json();
  Value model = *json.find("model");
  model.set(key, std::move(value));
  json.set("model", std::move(model));
  return json;
}

Tokenizer load(const Value& json) { return Tokenizer::from_json(json, nullptr); }

// What from_json says about `json`; "" when it loads.
std::string complaint(const Value& json, const Value* config = nullptr) {
  try {
    Tokenizer::from_json(json, config);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::BadInput);
    return error.what();
  }
  return "";
}

void check_complaint(const Value& json, const std::string& text) {
  const std::string found = complaint(json);
  INFO("found: " << found);
  INFO("expected within: " << text);
  CHECK(found.find(text) != std::string::npos);
}

std::string streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamDecoder stream(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = stream.push(id);
    CHECK(is_valid_utf8(part));
    text += part;
  }
  return text + stream.finish();
}

Value one_bos_template(int64_t id) {
  return Object{
      {"type", "TemplateProcessing"},
      {"single", Array{Object{{"SpecialToken", Object{{"id", "<s>"}, {"type_id", 0}}}},
                       Object{{"Sequence", Object{{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens",
       Object{{"<s>", Object{{"id", "<s>"}, {"ids", Array{id}}, {"tokens", Array{"<s>"}}}}}}};
}

}  // namespace

TEST_CASE("merges apply by rank, then from the left") {
  const Tokenizer tokenizer = load(small_json());
  CHECK(tokenizer.encode("hello hello", true).ids == Ids{259, 260});
  CHECK(tokenizer.encode("hello hello", true).begins == Begins{0, 5});
  CHECK(tokenizer.encode("abc", true).ids == Ids{'a', 262});  // "b c" ranks before "a b"
  CHECK(tokenizer.encode("lllll", true).ids == Ids{257, 257, 'l'});
  CHECK(tokenizer.encode("", true).ids.empty());
  CHECK(tokenizer.vocab_size() == 263);
  CHECK(tokenizer.id_of("hello") == 259);
  CHECK_FALSE(tokenizer.id_of("nothing"));
  CHECK(tokenizer.token(260) == "\xC4\xA0hello");
  CHECK(tokenizer.token(-1).empty());
}

TEST_CASE("a whole word of the vocabulary wins when merges are ignored") {
  Value json = with_model("ignore_merges", true);
  CHECK(load(json).encode("ab bc", true).ids == Ids{261, ' ', 262});
  CHECK(load(json).encode("abc", true).ids == Ids{'a', 262});
}

TEST_CASE("a prefix space has the offset of what follows") {
  const auto encoding = load(with("pre_tokenizer", byte_level(true))).encode("hello", true);
  CHECK(encoding.ids == Ids{260});
  CHECK(encoding.begins == Begins{0});
}

TEST_CASE("invalid UTF-8 is encoded as U+FFFD with the input's offsets") {
  const Tokenizer tokenizer = load(small_json());
  const auto encoding = tokenizer.encode("a\xF0\x9F\x98z\xFF", true);
  CHECK(encoding.ids == Ids{'a', 0xEF, 0xBF, 0xBD, 'z', 0xEF, 0xBF, 0xBD});
  CHECK(encoding.begins == Begins{0, 1, 1, 1, 4, 5, 5, 5});
}

TEST_CASE("added tokens match leftmost and longest, with their flags") {
  const Tokenizer tokenizer =
      load(with("added_tokens", Array{added(263, "<a>"), added(264, "<a><b>"),
                                      added(265, "<L>", {"lstrip"}), added(266, "<R>", {"rstrip"}),
                                      added(267, "<W>", {"single_word", "normalized"}),
                                      added(268, "<s>", {"special"})}));
  CHECK(tokenizer.encode("<a><a><b>x", true).ids == Ids{263, 264, 'x'});
  const auto strips = tokenizer.encode(
      "a \t<L> <R> \n\xC2\xA0"
      "b",
      true);
  CHECK(strips.ids == Ids{'a', 265, ' ', 266, 'b'});
  CHECK(strips.begins == Begins{0, 1, 6, 7, 14});
  CHECK(tokenizer.encode("<R>  <L>", true).ids == Ids{266, 265});
  CHECK(tokenizer.encode("<W> (<W>)", true).ids == Ids{267, ' ', '(', 267, ')'});
  CHECK(tokenizer.encode("x<W>", true).ids == Ids{'x', '<', 'W', '>'});
  CHECK(tokenizer.encode("<W>\xC3\xA9", true).ids == Ids{'<', 'W', '>', 0xC3, 0xA9});
  CHECK(tokenizer.is_special(268));
  CHECK_FALSE(tokenizer.is_special(263));
  CHECK(tokenizer.decode(Ids{268, 'a', 263, 999, -5}, true) == "a<a>");
  CHECK(tokenizer.decode(Ids{268, 'a', 263}, false) == "<s>a<a>");
}

TEST_CASE("normalized added tokens match the normalised text") {
  Value json = with("normalizer", Object{{"type", "Lowercase"}});
  json.set("added_tokens", Array{added(263, "<Tag>", {"normalized"}), added(264, "<RAW>")});
  const Tokenizer tokenizer = load(json);
  CHECK(tokenizer.encode("<TAG><RAW><raw>A", true).ids ==
        Ids{263, 264, '<', 'r', 'a', 'w', '>', 'a'});
  CHECK(tokenizer.decode(Ids{263}, true) == "<tag>");  // as the reference shows it
}

TEST_CASE("lower case is that of Unicode 17") {
  const Tokenizer tokenizer = load(with("normalizer", Object{{"type", "Lowercase"}}));
  const auto lowered = [&](std::string_view text) {
    return tokenizer.decode(tokenizer.encode(text, false).ids, false);
  };
  CHECK(lowered("A\u00C9\u0130\u03A3") == "a\u00E9i\u0307\u03C3");
  CHECK(lowered("\u1C89\uA7CB\uA7CE\uA7DC") == "\u1C8A\u0264\uA7CF\u019B");
  CHECK(lowered("\U00010D50\U00010D65\U00010D66") == "\U00010D70\U00010D85\U00010D66");
  CHECK(lowered("\U00016E9F\U00016EA0\U00016EB8\U00016EB9") ==
        "\U00016E9F\U00016EBB\U00016ED3\U00016EB9");
}

TEST_CASE("tokenizer_config.json adds tokens and overrides flags") {
  const Value config =
      Object{{"added_tokens_decoder", Object{{"263", Object{{"content", "<s>"}, {"special", true}}},
                                             {"264", Object{{"content", "<t>"}}}}}};
  const Tokenizer tokenizer =
      Tokenizer::from_json(with("added_tokens", Array{added(263, "<s>")}), &config);
  CHECK(tokenizer.is_special(263));
  CHECK(tokenizer.encode("<s><t>", true).ids == Ids{263, 264});
}

TEST_CASE("NFC keeps offsets outside the characters it changes") {
  const Tokenizer tokenizer = load(with("normalizer", Object{{"type", "NFC"}}));
  const auto encoding = tokenizer.encode("hello cafe\xCC\x81 ab", true);
  CHECK(encoding.ids == Ids{259, ' ', 'c', 'a', 'f', 0xC3, 0xA9, ' ', 261});
  CHECK(encoding.begins == Begins{0, 5, 6, 7, 8, 9, 9, 12, 13});
}

TEST_CASE("normalizer steps run in order") {
  const Value steps =
      Array{Object{{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}},
            Object{{"type", "Replace"}, {"pattern", Object{{"Regex", "\\s+"}}}, {"content", "_"}},
            Object{{"type", "Prepend"}, {"prepend", ">"}}};
  const Tokenizer tokenizer =
      load(with("normalizer", Object{{"type", "Sequence"}, {"normalizers", steps}}));
  const auto encoding = tokenizer.encode(" a \n b ", true);
  CHECK(tokenizer.decode(encoding.ids, true) == ">a_b_");
  CHECK(encoding.begins == Begins{1, 1, 2, 5, 6});
}

TEST_CASE("the post-processor frames a text when asked") {
  Value json = with("post_processor", one_bos_template(263));
  json.set("added_tokens", Array{added(263, "<s>", {"special"})});
  const Tokenizer tokenizer = load(json);
  CHECK(tokenizer.encode("hello", true).ids == Ids{263, 259});
  CHECK(tokenizer.encode("hello", true).begins == Begins{0, 0});
  CHECK(tokenizer.encode("hello", false).ids == Ids{259});
}

TEST_CASE("split behaviours") {
  const auto words = [](const char* behavior, bool invert) {
    const Value split = Object{{"type", "Split"},
                               {"pattern", Object{{"String", "-"}}},
                               {"behavior", behavior},
                               {"invert", invert}};
    Value plain = byte_level();
    plain.set("use_regex", false);
    const Tokenizer tokenizer = load(with(
        "pre_tokenizer", Object{{"type", "Sequence"}, {"pretokenizers", Array{split, plain}}}));
    // Each byte is a token, so joined words show only in what is removed; begins tell the rest.
    return tokenizer.decode(tokenizer.encode("a--b-", true).ids, false);
  };
  CHECK(words("Removed", false) == "ab");
  CHECK(words("Removed", true) == "---");
  for (const char* behavior : {"Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"})
    CHECK(words(behavior, false) == "a--b-");
}

TEST_CASE("merged delimiters decide what can merge") {
  Value json = small_json();
  Value model = *json.find("model");
  Value vocab = *model.find("vocab");
  vocab.set("a-", 263);
  vocab.set("-b", 264);
  vocab.set("--", 265);
  model.set("vocab", vocab);
  model.set("merges", Array{"a -", "- b", "- -"});
  json.set("model", model);
  const auto ids = [&](const char* behavior) {
    Value plain = byte_level();
    plain.set("use_regex", false);
    const Value split = Object{{"type", "Split"},
                               {"pattern", Object{{"Regex", "-"}}},
                               {"behavior", behavior},
                               {"invert", false}};
    json.set("pre_tokenizer", Object{{"type", "Sequence"}, {"pretokenizers", Array{split, plain}}});
    return load(json).encode("a--b", true).ids;
  };
  CHECK(ids("Isolated") == Ids{'a', '-', '-', 'b'});
  CHECK(ids("MergedWithPrevious") == Ids{263, '-', 'b'});
  CHECK(ids("MergedWithNext") == Ids{'a', '-', 264});
  CHECK(ids("Contiguous") == Ids{'a', 265, 'b'});
}

TEST_CASE("decoding streams whole characters") {
  const Tokenizer tokenizer = load(with("added_tokens", Array{added(263, "<s>", {"special"})}));
  const std::string text =
      "a\xF0\x9F\x98\x80"
      "b\xF0\x9F\xA7\x91\xE2\x80\x8D\xF0\x9F\x92\xBB";
  const Ids ids = tokenizer.encode(text, true).ids;
  StreamDecoder stream(tokenizer, true);
  CHECK(stream.push('a') == "a");
  CHECK(stream.push(0xF0).empty());
  CHECK(stream.push(0x9F).empty());
  CHECK(stream.push(263).empty());  // a skipped token does not break a character
  CHECK(stream.push(0x98).empty());
  CHECK(stream.push(0x80) == "\xF0\x9F\x98\x80");
  CHECK(stream.push(0xE2).empty());
  CHECK(stream.finish() == "\xEF\xBF\xBD");
  CHECK(streamed(tokenizer, ids, true) == text);
  for (const Ids& broken :
       {Ids{0xF0, 0x9F, 'a'}, Ids{0xFF, 0x80}, Ids{0xE2, 263, 0x82}, Ids{0xED, 0xA0, 0x80}, Ids{}})
    for (const bool skip : {true, false})
      CHECK(streamed(tokenizer, broken, skip) == tokenizer.decode(broken, skip));
  CHECK(tokenizer.decode(Ids{0xF0, 0x9F, 'a'}, true) ==
        "\xEF\xBF\xBD"
        "a");
}

TEST_CASE("decoder sequences") {
  Value json = with_model(
      "vocab", Object{{"\xE2\x96\x81", 0}, {"a", 1}, {"<0xE2>", 2}, {"<0x82>", 3}, {"<0xAC>", 4}});
  Value model = *json.find("model");
  model.set("merges", Array{});
  json.set("model", model);
  json.set("pre_tokenizer", nullptr);
  json.set("decoder",
           Object{{"type", "Sequence"},
                  {"decoders",
                   Array{Object{{"type", "Replace"},
                                {"pattern", Object{{"String", "\xE2\x96\x81"}}},
                                {"content", " "}},
                         Object{{"type", "ByteFallback"}}, Object{{"type", "Fuse"}},
                         Object{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}});
  const Tokenizer tokenizer = load(json);
  CHECK(tokenizer
            .encode("\xE2\x96\x81"
                    "a",
                    true)
            .ids == Ids{0, 1});
  CHECK(tokenizer.decode(Ids{0, 1, 0, 1}, true) == "a a");
  CHECK(tokenizer.decode(Ids{0, 0, 2, 3, 4}, true) == " \xE2\x82\xAC");
  CHECK(tokenizer.decode(Ids{2, 3, 1}, true) ==
        "\xEF\xBF\xBD\xEF\xBF\xBD"
        "a");
  CHECK(streamed(tokenizer, Ids{0, 0, 2, 3, 4, 0, 1, 2}, true) ==
        tokenizer.decode(Ids{0, 0, 2, 3, 4, 0, 1, 2}, true));
  json.set("decoder", nullptr);
  CHECK(load(json).decode(Ids{1, 0, 1}, true) == "a \xE2\x96\x81 a");
}

TEST_CASE("a word of a hundred thousand characters is one heap, not a square") {
  const Tokenizer tokenizer = load(small_json());
  const std::string word(100'000, 'l');
  CHECK(tokenizer.encode(word, true).ids == Ids(50'000, 257));
}

// Characters a-c, U+2581, four bytes of the euro sign's; "ab", U+2581 "a", "abc".
Value metaspace_json(const char* scheme) {
  const std::string space = "\xE2\x96\x81";
  Object vocab;
  int id = 0;
  for (const std::string& token :
       {std::string("<unk>"), std::string("a"), std::string("b"), std::string("c"), space,
        std::string("<0xE2>"), std::string("<0x82>"), std::string("<0xAC>"), std::string("ab"),
        space + "a", std::string("abc")})
    vocab.emplace_back(token, id++);
  const Value model = Object{{"type", "BPE"},          {"vocab", vocab},
                             {"unk_token", "<unk>"},   {"fuse_unk", true},
                             {"byte_fallback", true},
                             {"merges", Array{space + " a", "a b", "ab c"}}};
  const Value metaspace = Object{{"type", "Metaspace"},
                                 {"replacement", space},
                                 {"prepend_scheme", scheme},
                                 {"split", false}};
  return Object{{"pre_tokenizer", metaspace}, {"decoder", metaspace}, {"model", model}};
}

TEST_CASE("a metaspace stands for spaces and bytes for characters without a token") {
  const Tokenizer first = load(metaspace_json("first"));
  const auto text = first.encode("abc abc", false);
  CHECK(text.ids == Ids{9, 2, 3, 9, 2, 3});
  CHECK(text.begins == Begins{0, 1, 2, 3, 5, 6});
  CHECK(first.decode(text.ids, false) == "abc abc");
  const auto euro = first.encode("c\xE2\x82\xAC!!c", false);
  CHECK(euro.ids == Ids{4, 3, 5, 6, 7, 0, 3});
  CHECK(euro.begins == Begins{0, 0, 1, 2, 3, 4, 6});
  CHECK(load(metaspace_json("never")).encode("abc abc", false).ids == Ids{10, 9, 2, 3});
}

TEST_CASE("long words merge as short ones do") {
  const Tokenizer tokenizer = load(small_json());
  std::string word;
  Ids expected;
  for (int i = 0; i < 1000; ++i) {
    word += "hello";
    expected.push_back(259);
  }
  CHECK(tokenizer.encode(word, false).ids == expected);
}

TEST_CASE("encode and decode run concurrently") {
  const Tokenizer tokenizer = load(small_json());
  std::vector<std::thread> threads;
  std::vector<int> good(4, 0);
  for (size_t t = 0; t < good.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i)
        good[t] += tokenizer.decode(tokenizer.encode("hello hello abc 123", true).ids, true) ==
                   "hello hello abc 123";
    });
  for (auto& thread : threads) thread.join();
  CHECK(good == std::vector<int>(4, 200));
}

TEST_CASE("what is not supported is named") {
  check_complaint(with_model("type", "Unigram"), "model: model type \"Unigram\" is not supported");
  check_complaint(with_model("type", "WordPiece"), "\"WordPiece\"");
  check_complaint(with_model("type", "WordLevel"), "\"WordLevel\"");
  check_complaint(with_model("dropout", 0.1), "dropout");
  check_complaint(with_model("continuing_subword_prefix", "##"), "continuing_subword_prefix");
  check_complaint(with("normalizer", Object{{"type", "Nmt"}}), "normalizer: normalizer \"Nmt\"");
  check_complaint(with("pre_tokenizer", Object{{"type", "UnicodeScripts"}}),
                  "pre-tokenizer \"UnicodeScripts\"");
  check_complaint(with("pre_tokenizer", Object{{"type", "Metaspace"}, {"replacement", ""}}),
                  "pre_tokenizer: replacement is empty");
  check_complaint(with("pre_tokenizer", Object{{"type", "Metaspace"},
                                               {"replacement", "_"},
                                               {"prepend_scheme", "last"}}),
                  "prepend_scheme \"last\"");
  check_complaint(with("decoder", Object{{"type", "CTC"}}), "decoder \"CTC\"");
  check_complaint(with("post_processor", Object{{"type", "BertProcessing"}}),
                  "post-processor \"BertProcessing\"");
}

TEST_CASE("malformed tokenizers are refused with the place") {
  check_complaint(Array{}, "tokenizer.json: found array, expected object");
  check_complaint(with("model", nullptr), "tokenizer.json: model");
  check_complaint(with_model("vocab", Object{}), "model.vocab is empty");
  check_complaint(with_model("vocab", Object{{"a", 0}, {"b", 0}}),
                  "id 0 is given to \"a\" and to \"b\"");
  check_complaint(with_model("vocab", Object{{"a", -1}}), "id -1");
  check_complaint(with_model("vocab", Object{{"a", int64_t{1} << 40}}), "expected 0 to 3999999");
  check_complaint(with_model("vocab", Object{{"a", "0"}}), "found string, expected integer");
  check_complaint(with_model("vocab", Object{{std::string(70'000, 'x'), 0}}), "70000 bytes");
  check_complaint(with_model("merges", Array{"h e", "h q"}),
                  "model.merges[1]: \"hq\" is not in vocab");
  check_complaint(with_model("merges", Array{"h \xE2\x82\xAC"}), "merges[0]");
  check_complaint(with_model("merges", Array{"he"}), "model.merges[0]: expected");
  check_complaint(with_model("merges", Array{Array{"h", "e", "l"}}), "model.merges[0]: expected");
  check_complaint(with_model("merges", Array{"h e", "h e"}),
                  "model.merges[1]: \"h\" and \"e\" are merged twice");
  check_complaint(with_model("merges", "h e"), "model.merges: found string, expected array");
  check_complaint(with_model("unk_token", "<none>"), "unk_token \"<none>\" is not in vocab");
  check_complaint(with("added_tokens", Array{added(263, "")}), "added_tokens[0]: content is empty");
  check_complaint(with("added_tokens", Array{added(5, "<x>")}), "id 5 is given to");
  check_complaint(with("added_tokens", Array{added(7, "hello")}),
                  "\"hello\" has id 7, but 259 in vocab");
  check_complaint(with("added_tokens", Array{added(9000, "<x>")}),
                  "the largest id is 9000 with 264 tokens");
  check_complaint(with("post_processor", one_bos_template(263)),
                  "\"<s>\" has an id that no token has");
  check_complaint(
      with("decoder", Object{{"type", "Strip"}, {"content", "ab"}, {"start", 1}, {"stop", 0}}),
      "expected one character");
  Value nested = Object{{"type", "NFC"}};
  for (int i = 0; i < 20; ++i)
    nested = Object{{"type", "Sequence"}, {"normalizers", Array{nested}}};
  check_complaint(with("normalizer", nested), "nested more than 8 deep");
}

TEST_CASE("a normalizer that blows a text up ends as bad input") {
  Value json = with("normalizer", Object{{"type", "Replace"},
                                         {"pattern", Object{{"String", "a"}}},
                                         {"content", std::string(60'000, 'a')}});
  const Tokenizer tokenizer = load(json);
  const PeakMemory memory;
  CHECK_THROWS_AS(tokenizer.encode(std::string(1000, 'a'), true), Error);
  CHECK(memory.growth() < int64_t{100} << 20);
}

// What a SentencePiece model adds to the tokenizer: its character map, its rules for spaces, merges
// by rank, user-defined tokens and its way to decode. Parity with the library is
// tests/parity/tokenizer_files_test.py.
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/catch.h"
#include "support/peak_memory.h"
#include "text/charsmap.h"
#include "text/tokenizer.h"

using namespace lema;
using Ids = std::vector<int32_t>;
using Object = Value::Object;
using Array = Value::Array;

namespace {

// Ids: 0 <unk>, 1 <s>, 2 U+2581, 3 a, 4 b, 5 aa, 6 aaa, 7 [U], 8 U+2581 a, 9 - 264 the bytes.
Value model_json(const Object& rules = {}, const Object& model_extra = {}) {
  Object vocab;
  for (const char* token : {"<unk>", "<s>", "\u2581", "a", "b", "aa", "aaa", "[U]", "\u2581a"})
    vocab.emplace_back(token, std::ssize(vocab));
  for (int b = 0; b < 256; ++b) vocab.emplace_back(fmt::format("<0x{:02X}>", b), std::ssize(vocab));
  Value normalizer = Object{{"type", "SentencePiece"},    {"charsmap", nullptr},
                            {"dummy_prefix", "always"},   {"remove_extra_whitespaces", false},
                            {"escape_whitespaces", true}, {"user_defined", Array{"[U]"}}};
  for (const auto& [key, value] : rules) normalizer.set(key, value);
  Value model =
      Object{{"type", "BPE"},           {"unk_token", "<unk>"},
             {"fuse_unk", true},        {"byte_fallback", true},
             {"vocab", vocab},          {"token_ranks", Array{-1, -1, 0, 0, 0, 1, 2, -1, 1}},
             {"user_defined", Array{7}}};
  for (const auto& [key, value] : model_extra) model.set(key, value);
  const Value special = Object{{"id", 1}, {"content", "<s>"}, {"special", true}};
  return Object{{"added_tokens", Array{special}},
                {"normalizer", normalizer},
                {"pre_tokenizer", nullptr},
                {"post_processor", nullptr},
                {"decoder", Object{{"type", "SentencePiece"}, {"strip", "first"}}},
                {"model", model}};
}

Ids encode(const Value& json, const std::string& text) {
  return Tokenizer::from_json(json, nullptr).encode(text, false).ids;
}

std::string complaint(const Value& json) {
  try {
    Tokenizer::from_json(json, nullptr);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::BadInput);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("tokens merge by the rank of what they make, the leftmost of equals first") {
  CHECK(encode(model_json(), "b") == Ids{2, 4});
  CHECK(encode(model_json(), "a") == Ids{8});
  // U+2581 a and a a have one rank: the leftmost pair merges, then a a, then nothing.
  CHECK(encode(model_json(), "aaaa") == Ids{8, 6});
  CHECK(encode(model_json({{"dummy_prefix", "never"}}), "aaaa") == Ids{5, 5});
  CHECK(encode(model_json({{"dummy_prefix", "never"}}), "aaab") == Ids{6, 4});
}

TEST_CASE("user-defined tokens stay whole behind the prefix, special ones begin anew") {
  CHECK(encode(model_json(), "[U]a") == Ids{2, 7, 3});
  CHECK(encode(model_json(), "b<s>b") == Ids{2, 4, 1, 2, 4});
  CHECK(encode(model_json({{"dummy_prefix", "first"}}), "b<s>b") == Ids{2, 4, 1, 4});
}

TEST_CASE("extra spaces go when the model says so") {
  const Value json = model_json({{"remove_extra_whitespaces", true}});
  CHECK(encode(json, "  b  b  ") == Ids{2, 4, 2, 4});
  CHECK(encode(json, "   ").empty());
  CHECK(encode(model_json(), " ") == Ids{2, 2});
}

TEST_CASE("byte tokens decode character by character, each wrong byte to one U+FFFD") {
  const Tokenizer tokenizer = Tokenizer::from_json(model_json(), nullptr);
  const auto byte = [](int b) { return 9 + b; };
  CHECK(tokenizer.decode(Ids{2, 3}, true) == "a");
  CHECK(tokenizer.decode(Ids{2, 2, 3}, true) == " a");
  CHECK(tokenizer.decode(Ids{byte(0x20), 2, 3}, true) == "  a");
  CHECK(tokenizer.decode(Ids{byte(0xC3), byte(0xA9), byte(0xFF), byte('x')}, true) == "é\uFFFDx");
  CHECK(tokenizer.decode(Ids{byte(0xE2), byte(0x96), 3}, true) == "\uFFFD\uFFFDa");
  CHECK(tokenizer.decode(Ids{3, byte(0xE2)}, true) == "a\uFFFD");
  StreamDecoder stream(tokenizer, true);
  CHECK(stream.push(byte(0xC3)).empty());
  CHECK(stream.push(byte(0xA9)) == "é");
}

TEST_CASE("malformed tables of ranks and rules are refused") {
  const auto with_model = [](const char* key, Value value) {
    return complaint(model_json({}, Object{{key, std::move(value)}}));
  };
  const auto with_rule = [](const char* key, Value value) {
    return complaint(model_json(Object{{key, std::move(value)}}));
  };
  CHECK_FALSE(with_model("token_ranks", Array{"x"}).empty());
  CHECK_FALSE(with_model("token_ranks", 3).empty());
  CHECK_FALSE(with_model("token_ranks", Array{int64_t{1} << 40}).empty());
  CHECK_FALSE(with_model("user_defined", Array{999}).empty());
  CHECK_FALSE(with_rule("dummy_prefix", "maybe").empty());
  CHECK_FALSE(with_rule("user_defined", Array{3}).empty());
  CHECK_FALSE(with_rule("charsmap", "abc").empty());
  CHECK_FALSE(with_rule("charsmap", std::string("\4\0\0\0\0\0\0\0\xFF", 9)).empty());
  Value json = model_json();
  json.set("decoder", Object{{"type", "SentencePiece"}, {"strip", "x"}});
  CHECK_FALSE(complaint(json).empty());
}

TEST_CASE("a character map of any bytes is walked within its bounds") {
  std::mt19937 random(11);
  int loaded = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto units = static_cast<uint32_t>(1 + random() % 63);
    std::string map(4, '\0');
    map[0] = static_cast<char>(units * 4);
    // Units with small offsets, so that walks go on.
    for (uint32_t i = 0; i < units; ++i) {
      const auto unit = static_cast<uint32_t>(
          random() % 4 == 0 ? random()
                            : (random() % 64) << 10 | (random() % 2) << 8 | ('a' + random() % 4));
      for (int shift = 0; shift < 32; shift += 8) map += static_cast<char>(unit >> shift);
    }
    map += std::string("x\0\xC3\xA9\0", 5);
    const CharsMap rules(map, "map");
    ++loaded;
    const std::string text = "abcdabcd\u00e9abc";
    for (size_t at = 0; at < text.size(); ++at) {
      const CharsMap::Match match = rules.longest_at(text, at);
      CHECK(match.bytes <= text.size() - at);
    }
  }
  CHECK(loaded == 3000);
}

TEST_CASE("a character map with a loop matches no more than an entry may have") {
  std::vector<uint32_t> units(400);
  units[0] = 256 << 10;
  units[256 ^ 'a'] = uint32_t{'a'} << 10 | 1 << 8 | 'a';  // goes to 256, where 'a' leads here again
  std::string map("\x40\x06\0\0", 4);
  for (const uint32_t unit : units)
    for (int shift = 0; shift < 32; shift += 8) map += static_cast<char>(unit >> shift);
  const CharsMap rules(map + std::string("x\0", 2), "map");
  const std::string text(200'000, 'a');
  const CharsMap::Match match = rules.longest_at(text, 0);
  CHECK(match.bytes == 256);
  CHECK(match.replacement == "x");
}

TEST_CASE("a long text without a space merges in n log n", "[clock]") {
  const Tokenizer tokenizer = Tokenizer::from_json(model_json(), nullptr);
  const std::string text(1'000'000, 'a');
  const auto start = std::chrono::steady_clock::now();
  CHECK(tokenizer.encode(text, false).ids.size() > 300'000);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
}

TEST_CASE("tokens whose parts would take minutes to find are refused") {
  Array ranks;
  Object vocab;
  for (int i = 0; i < 40; ++i) {
    vocab.emplace_back(std::string(static_cast<size_t>(20'000 + i), 'a'), i);
    ranks.emplace_back(i);
  }
  Object model;
  model.emplace_back("vocab", vocab);
  model.emplace_back("token_ranks", ranks);
  model.emplace_back("unk_token", Value());
  const PeakMemory peak;
  CHECK_FALSE(complaint(model_json({}, model)).empty());
  CHECK(peak.growth() < int64_t{64} << 20);
}

// Readers of tokenizer files other than tokenizer.json: what they refuse and with what message, and
// the tables they write for tiny files. Parity with the libraries is
// tests/parity/tokenizer_files_test.py.
#include <bit>
#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "formats/base64.h"
#include "formats/sentencepiece_model.h"
#include "formats/tekken.h"
#include "formats/tiktoken.h"
#include "formats/tokenizer_files.h"
#include "formats/vocab_merges.h"
#include "support/catch.h"
#include "support/peak_memory.h"
#include "support/temp_folder.h"

using namespace lema;
using Object = Value::Object;
using Array = Value::Array;

namespace {

// What `read` says; "" when it accepts.
std::string complaint(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::BadInput);
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  UNSCOPED_INFO("\"" << text << "\" should contain \"" << part << '"');
  return text.find(part) != std::string::npos;
}

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
std::string field(uint64_t number, std::string_view bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + std::string(bytes);
}
std::string field(uint64_t number, int64_t value) {
  return varint(number << 3) + varint(static_cast<uint64_t>(value));
}
std::string piece(std::string_view text, float score = 0, int type = 1) {
  std::string number = varint(2 << 3 | 5);
  const auto bits = std::bit_cast<uint32_t>(score);
  for (int shift = 0; shift < 32; shift += 8) number += static_cast<char>(bits >> shift);
  return field(1, field(1, text) + number + (type == 1 ? "" : field(3, int64_t{type})));
}
const std::string kPieces = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) +
                            piece("a") + piece("b") + piece("ab", -1);
const std::string kTrainer = field(2, field(3, int64_t{2}));

std::string sentencepiece_complaint(const std::string& bytes) {
  return complaint([&] { read_sentencepiece(bytes, "m"); });
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k)
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k)
      out += i + k <= bytes.size() || k < 2 ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string rank_line(std::string_view token, int64_t rank) {
  return base64(token) + ' ' + std::to_string(rank) + '\n';
}
std::string byte_ranks() {
  std::string out;
  for (int b = 0; b < 256; ++b) out += rank_line(std::string(1, static_cast<char>(b)), b);
  return out;
}
std::string tiktoken_complaint(const std::string& bytes) {
  return complaint([&] { read_tiktoken(bytes, "r"); });
}

Value tekken_file() {
  Array vocab;
  for (int b = 0; b < 256; ++b)
    vocab.push_back(
        Object{{"rank", b}, {"token_bytes", base64(std::string(1, static_cast<char>(b)))}});
  vocab.push_back(Object{{"rank", 256}, {"token_bytes", base64("ab")}});
  return Object{{"config", Object{{"pattern", "\\p{L}+|."},
                                  {"default_vocab_size", 260},
                                  {"default_num_special_tokens", 3}}},
                {"vocab", vocab}};
}
std::string tekken_complaint(const std::function<void(Value&)>& spoil) {
  Value file = tekken_file();
  spoil(file);
  return complaint([&] { tekken_tokenizer_json(file, "t"); });
}

}  // namespace

TEST_CASE("base64 is read whole or not at all") {
  CHECK(base64_bytes("") == "");
  CHECK(base64_bytes("YQ==") == "a");
  CHECK(base64_bytes("YWI=") == "ab");
  CHECK(base64_bytes("+/+/") == "\xFB\xFF\xBF");
  for (const char* text : {"YQ=", "YQ", "Y===", "=YQ=", "YQ==YQ==", "Y Q=", "YQ-_", "===="})
    CHECK_FALSE(base64_bytes(text).has_value());
}

TEST_CASE("a SentencePiece model becomes ranks by score") {
  const auto model = read_sentencepiece(
      kPieces + piece("ba", -1) + piece("aba", -0.5f) + piece("[U]", 0, 4) + kTrainer, "m");
  const Value json = sentencepiece_tokenizer_json(model, "always");
  // Scores 0 > -0.5 > -1; control, unknown and user-defined pieces do not merge.
  CHECK(*json.find("model")->find("token_ranks") == Value(Array{-1, -1, -1, 0, 0, 2, 2, 1, -1}));
  CHECK(*json.find("model")->find("user_defined") == Value(Array{8}));
  CHECK(json.find("added_tokens")->as_array().size() == 3);
}

TEST_CASE("SentencePiece models that are not supported are refused by name") {
  const auto with_type = [](int64_t type) { return kPieces + field(2, field(3, type)); };
  CHECK(contains(sentencepiece_complaint(with_type(1)), "unigram"));
  CHECK(contains(sentencepiece_complaint(kPieces + field(2, "")), "unigram"));
  CHECK(contains(sentencepiece_complaint(with_type(3)), "word"));
  CHECK(contains(sentencepiece_complaint(with_type(4)), "character"));
  CHECK(contains(sentencepiece_complaint(with_type(99)), "model_type 99"));
  CHECK(contains(
      sentencepiece_complaint(kPieces + field(2, field(3, int64_t{2}) + field(24, int64_t{1}))),
      "treat_whitespace_as_suffix"));
  CHECK(contains(sentencepiece_complaint(kPieces + kTrainer + field(5, field(2, "x"))),
                 "denormalizer"));
  CHECK(contains(sentencepiece_complaint(kPieces + piece("q", 0, 5) + kTrainer), "unused"));
}

// Bytes that are no protobuf, and lines that are no ranks: malformed/tokenizer_test.cpp.
TEST_CASE("malformed SentencePiece models are refused with the place") {
  const auto refuses = [](const std::string& bytes, const std::string& part) {
    CHECK(contains(sentencepiece_complaint(bytes), part));
  };
  refuses("", "missing");
  refuses(kPieces, "missing");
  refuses(kTrainer, "missing");
  refuses(kTrainer + piece("a"), "no unknown piece");
  refuses(kPieces + piece("<u>", 0, 2) + kTrainer, "second unknown");
  refuses(kPieces + piece("a") + kTrainer, "given twice");
  refuses(kPieces + piece("") + kTrainer, "0 bytes");
  refuses(kPieces + piece("\xFF") + kTrainer, "UTF-8");
  refuses(kPieces + piece(std::string(100'000, 'a')) + kTrainer, "100000 bytes");
  refuses(kPieces + piece("x", std::bit_cast<float>(0x7FC00000u)) + kTrainer, "not finite");
  refuses(kPieces + piece("xa", -2) + kTrainer, "no piece");
  refuses(kPieces + field(1, field(1, "z") + field(3, int64_t{9})) + kTrainer, "type 9");
  refuses(kPieces + field(2, field(3, int64_t{2}) + field(35, int64_t{1})), "byte pieces");
  refuses(kPieces + field(1, field(1, int64_t{4})) + kTrainer, "not of its kind");
}

TEST_CASE("every cut of a SentencePiece model and every flipped byte is read or refused") {
  const std::string bytes = kPieces + kTrainer + field(3, field(3, int64_t{0}) + field(2, "xxxx"));
  for (size_t size = 0; size < bytes.size(); ++size) sentencepiece_complaint(bytes.substr(0, size));
  std::mt19937 random(7);
  for (int round = 0; round < 20'000; ++round) {
    std::string changed = bytes;
    for (int k = 0; k < 3; ++k) changed[random() % changed.size()] = static_cast<char>(random());
    sentencepiece_complaint(changed);
  }
}

TEST_CASE("rank files: what is malformed is refused by line") {
  const auto refuses = [](const std::string& bytes, const std::string& part) {
    CHECK(contains(tiktoken_complaint(bytes), part));
  };
  CHECK(looks_like_tiktoken("IQ== 0\nIg== 1\n"));
  CHECK_FALSE(looks_like_tiktoken(kPieces));
  CHECK_FALSE(looks_like_tiktoken("{\"version\": 1}"));
  refuses(byte_ranks(), "256 ranks");
  refuses(byte_ranks() + "????\n", "r:257");
  refuses(byte_ranks() + "YWI= 1 1\n", "r:257");
  refuses(byte_ranks() + "YWI= 99999999999999999999\n", "r:257");
  refuses(byte_ranks() + rank_line("ab", 255), "given twice");
  refuses(byte_ranks() + rank_line("ab", 257), "no token has rank 256");
  refuses(byte_ranks() + rank_line("a", 256), "given twice");
  refuses(byte_ranks() + " 256\n", "0 bytes");
  refuses(rank_line("a", 0), "byte 0 is no token");
  refuses(byte_ranks() + rank_line(std::string(40'000, 'a'), 256), "40000 bytes");
}

TEST_CASE("a rank far beyond the file does not cost memory for it") {
  const PeakMemory peak;
  CHECK(contains(tiktoken_complaint(byte_ranks() + rank_line("ab", 4'000'001)), "r:257"));
  CHECK(contains(tiktoken_complaint("AA== 3999999\n"), "r:1: rank 3999999 in a file of 2 lines"));
  CHECK(peak.growth() < int64_t{16} << 20);
}

TEST_CASE("tekken.json: ids follow the special tokens") {
  const Value json = tekken_tokenizer_json(tekken_file(), "t");
  const Value& vocab = *json.find("model")->find("vocab");
  CHECK(*vocab.find("a") == Value(3 + 'a'));
  CHECK(*vocab.find("ab") == Value(259));
  CHECK(*json.find("added_tokens")->as_array()[1].find("content") == Value("<s>"));
}

TEST_CASE("tekken.json: what is malformed is refused with the place") {
  const auto config = [](const char* key, Value value) {
    return tekken_complaint([&](Value& file) {
      Value changed = *file.find("config");
      changed.set(key, value);
      file.set("config", changed);
    });
  };
  const auto entry = [](Value value) {
    return tekken_complaint([&](Value& file) {
      Array vocab = file.find("vocab")->as_array();
      vocab[256] = value;
      file.set("vocab", vocab);
    });
  };
  CHECK(contains(config("pattern", 3), "pattern"));
  CHECK(contains(config("pattern", ""), "pattern"));
  CHECK(contains(config("default_vocab_size", 300), "257 tokens"));
  CHECK(contains(config("default_vocab_size", int64_t{1} << 40), "default_vocab_size"));
  CHECK(contains(config("default_vocab_size", 2), "default_vocab_size"));
  CHECK(contains(config("default_num_special_tokens", -1), "default_num_special_tokens"));
  CHECK(contains(entry(3), "found integer"));
  CHECK(contains(entry(Object{{"rank", 256}}), "token_bytes"));
  CHECK(contains(entry(Object{{"rank", 7}, {"token_bytes", "YWI="}}), "found 7, expected 256"));
  CHECK(contains(entry(Object{{"rank", 256}, {"token_bytes", "YWI"}}), "base64"));
  CHECK(contains(entry(Object{{"rank", 256}, {"token_bytes", "YQ=="}}), "given twice"));
  const auto special = [](Array tokens) {
    return tekken_complaint([&](Value& file) { file.set("special_tokens", tokens); });
  };
  CHECK(contains(special({Object{{"rank", 3}, {"token_str", "x"}}}), "rank"));
  CHECK(contains(special({Object{{"rank", 0}, {"token_str", ""}}}), "empty"));
  CHECK(contains(
      special({Object{{"rank", 0}, {"token_str", "x"}}, Object{{"rank", 0}, {"token_str", "y"}}}),
      "given twice"));
  CHECK(contains(complaint([] { tekken_tokenizer_json(Value(Array{}), "t"); }),
                 "expected an object"));
}

TEST_CASE("vocab.json and merges.txt: what is malformed is refused by line") {
  const Value vocab = Object{{"a", 0}, {"b", 1}, {"ab", 2}};
  const auto merges = [&](const char* text) {
    return complaint(
        [&] { vocab_merges_tokenizer_json(vocab, text, "GPT2Tokenizer", false, "f"); });
  };
  CHECK(merges("#version: 0.2\r\na b\r\n\r\n") == "");
  CHECK(contains(merges("#version: 0.2\nab\n"), "f/merges.txt:2"));
  CHECK(contains(merges("a b c\n"), "f/merges.txt:1"));
  CHECK(contains(merges(" b\n"), "f/merges.txt:1"));
  CHECK(contains(merges("a \n"), "f/merges.txt:1"));
  CHECK(contains(merges("a b\nb a\n"), "\"ba\" is not in vocab.json"));
  CHECK(contains(merges("a q\n"), "\"q\" is not in vocab.json"));
  CHECK(contains(merges("a b\na b\n"), "given twice"));
  const auto tokens = [](const Value& wrong) {
    return complaint([&] { vocab_merges_tokenizer_json(wrong, "", "GPT2Tokenizer", false, "f"); });
  };
  CHECK(contains(tokens(Object{{"a", 0}, {"b", 0}}), "given twice"));
  CHECK(contains(tokens(Object{{"a", -1}}), "no integer"));
  CHECK(contains(tokens(Object{{"a", "0"}}), "no integer"));
  CHECK(contains(tokens(Array{}), "expected an object"));
  CHECK(contains(
      complaint([&] { vocab_merges_tokenizer_json(vocab, "", "RobertaTokenizer", false, "f"); }),
      "RobertaTokenizer"));
}

TEST_CASE("of several tokenizer files the first of the documented order is read") {
  const TempFolder folder("tokenizer_files");
  const auto write = [&](const char* name, std::string_view bytes) {
    write_file(folder.path() / name, bytes);
  };
  const auto name = [&] {
    FolderReader reader(folder.path());
    const auto file = read_tokenizer_file(reader, nullptr, nullptr);
    return file ? file->name : "none";
  };
  CHECK(name() == "none");
  write("merges.txt", "a b\n");
  write("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})");
  write("config.json", R"({"model_type": "gpt2"})");
  CHECK(name() == "vocab.json");
  write("tokenizer.model", kPieces + kTrainer);
  CHECK(name() == "tokenizer.model");
  write("tokenizer.json", "{}");
  CHECK(name() == "tokenizer.json");
}

TEST_CASE("the configs say what frames a text and what is special") {
  const TempFolder folder("tokenizer_files");
  write_file(folder.path() / "tokenizer.model", kPieces + kTrainer);
  write_file(folder.path() / "added_tokens.json", R"({"<pad>": 6, "more": 7})");
  const auto read = [&](const Value* config) {
    FolderReader reader(folder.path());
    return read_tokenizer_file(reader, config, nullptr)->json;
  };
  const auto framed = [](const Value& json) {
    const Value& frame = *json.find("post_processor");
    return frame.is_null() ? size_t{1} : frame.find("single")->as_array().size();
  };
  CHECK(framed(read(nullptr)) == 2);
  CHECK(*read(nullptr).find("normalizer")->find("dummy_prefix") == Value("always"));
  const Value config = Object{
      {"add_bos_token", false}, {"add_eos_token", true}, {"pad_token", "<pad>"}, {"legacy", false}};
  const Value json = read(&config);
  CHECK(framed(json) == 2);
  CHECK(*json.find("normalizer")->find("dummy_prefix") == Value("first"));
  const Array& added = json.find("added_tokens")->as_array();
  REQUIRE(added.size() == 5);
  CHECK(*added[3].find("special") == Value(true));
  CHECK(*added[4].find("normalized") == Value(true));
  const Value missing = Object{{"bos_token", "<nope>"}};
  CHECK(*read(&missing).find("added_tokens")->as_array().back().find("id") == Value(8));
}

// A small tokenizer for tests of text and data: byte-level BPE with the 256 bytes, six merges and
// four special tokens. Ids: a byte's is its rank in the byte-level alphabet; specials from 256 +
// merges on.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/value.h"
#include "data/model_text.h"

namespace lema::testing {

inline std::string utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3f))};
}

// The printable stand-in of each byte in byte-level vocabularies.
inline std::string byte_symbol(int byte) {
  const auto stands_for_itself = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  };
  if (stands_for_itself(byte)) return utf8(byte);
  int rank = 0;
  for (int b = 0; b < byte; ++b) rank += !stands_for_itself(b);
  return utf8(256 + rank);
}

inline constexpr const char* kTinySpecials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>",
                                                "<|bos|>"};
inline constexpr int kEndOfText = 262, kImStart = 263, kImEnd = 264, kBos = 265,
                     kTinyVocabulary = 266;

inline Value tiny_tokenizer_json() {
  Value vocabulary{Value::Object{}};
  Value::Array merges;
  int64_t id = 0;
  for (int byte = 0; byte < 256; ++byte) vocabulary.set(byte_symbol(byte), id++);
  const std::string newline = byte_symbol('\n'), space = byte_symbol(' ');
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {newline, newline}, {space, "w"}};
  for (const auto& [left, right] : pairs) {
    vocabulary.set(left + right, id++);
    merges.push_back(Value::Array{left, right});
  }
  Value::Array added;
  for (const char* content : kTinySpecials)
    added.push_back(Value::Object{{"id", id++},
                                  {"content", content},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", true}});
  const Value byte_level = Value::Object{{"type", "ByteLevel"},
                                         {"add_prefix_space", false},
                                         {"trim_offsets", true},
                                         {"use_regex", true}};
  return Value::Object{{"version", "1.0"},
                       {"truncation", Value()},
                       {"padding", Value()},
                       {"added_tokens", added},
                       {"normalizer", Value()},
                       {"pre_tokenizer", byte_level},
                       {"post_processor", Value()},
                       {"decoder", byte_level},
                       {"model", Value::Object{{"type", "BPE"},
                                               {"dropout", Value()},
                                               {"unk_token", Value()},
                                               {"continuing_subword_prefix", Value()},
                                               {"end_of_word_suffix", Value()},
                                               {"fuse_unk", false},
                                               {"byte_fallback", false},
                                               {"ignore_merges", false},
                                               {"vocab", vocabulary},
                                               {"merges", merges}}}};
}

inline constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' "
    "}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

inline TextSources tiny_sources(const std::string& chat_template = kChatMl) {
  TextSources sources;
  sources.place = "tiny";
  sources.tokenizer = tiny_tokenizer_json();
  sources.tokenizer_config =
      Value(Value::Object{{"eos_token", "<|endoftext|>"}, {"bos_token", "<|bos|>"}});
  sources.template_file = chat_template;
  sources.V = kTinyVocabulary;
  sources.stop_ids = {kEndOfText};
  return sources;
}

}  // namespace lema::testing

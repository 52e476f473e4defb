// The decoder of tokenizer.json: token strings back to text, one token at a time.
// Used by Tokenizer::decode and StreamDecoder, which differ only in when they look at the result.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/value.h"

namespace lema {

class TokenDecoder {
 public:
  // tokenizer.json's "decoder"; null joins the tokens with spaces. Beyond tokenizer.json, for
  // SentencePiece models: {"type": "SentencePiece", "strip": "none" | "first" | "all"}: U+2581
  // becomes a space, but vanishes once from the first text, or from every token up to the first
  // text; byte tokens become characters. BadInput names unknown types.
  explicit TokenDecoder(const Value& json);

  struct State {
    int64_t tokens = 0;        // that came so far
    std::string cut;           // ByteLevel, SentencePiece: bytes of an unfinished character
    std::string run;           // ByteFallback: the bytes of <0xHH> tokens so far
    int64_t stripped = 0;      // Strip of the joined text: characters taken off its front
    bool strip_ended = false;  // Strip, SentencePiece: the front is past
  };
  // Appends to `out` what is certain after `token`, always whole characters of valid UTF-8.
  void push(State& state, std::string_view token, std::string& out) const;
  // Appends the rest; the state is then spent.
  void finish(State& state, std::string& out) const;

 private:
  enum class Kind { ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, SentencePiece };
  struct Step {
    Kind kind = Kind::Fuse;
    bool joined = false;          // the step sees one text instead of tokens
    std::string from, to;         // Replace, Metaspace; Strip: `from` is the character
    bool drops_first = false;     // Metaspace, SentencePiece: `from` vanishes from the first token
    bool drops_all = false;       // SentencePiece: and from the empty ones after it
    int64_t start = 0, stop = 0;  // Strip: at most so many characters off each end
  };
  void feed(State& state, size_t index, std::string_view token, std::string& out) const;
  void flush(State& state, size_t index, std::string& out) const;
  void end_run(State& state, size_t index, std::string& out) const;
  void feed_piece(State& state, size_t index, std::string_view token, std::string& out) const;
  static std::string take_characters(std::string& bytes, bool each_byte);
  static std::string_view strip_front(State& state, const Step& step, std::string_view text);

  std::vector<Step> steps_;
  bool spaced_ = false;
};

}  // namespace lema

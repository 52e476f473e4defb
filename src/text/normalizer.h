// The normalizer of tokenizer.json: rewrites a text before it is split. Used by Tokenizer::encode.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/value.h"
#include "text/regex.h"
#include "text/sentencepiece_rules.h"
#include "text/unicode.h"

namespace lema {

class Normalizer {
 public:
  // tokenizer.json's "normalizer", possibly null, or a SentencePieceRules. BadInput names unknown
  // types.
  explicit Normalizer(const Value& json);

  // Whether apply would leave `text` as it is, as far as that is cheap to tell.
  bool keeps(std::string_view text) const;

  struct Text {
    std::string text;
    std::vector<int64_t> origin;  // one per byte of text
    size_t limit = SIZE_MAX;      // bytes that apply lets text grow to
  };
  // Rewrites in place; origin follows: exact where a step keeps characters; characters that a step
  // changed carry the offset where the changed stretch begins. BadInput when a text grows beyond 64
  // times itself and 1 MiB.
  void apply(Text& text) const;
  std::string apply(std::string_view text) const;

 private:
  struct Form {
    NormalForm form;
  };
  struct Lowercase {};
  struct Prepend {
    std::string text;
  };
  struct Replace {
    Regex pattern;
    std::string content;
  };
  struct Strip {
    bool left, right;
  };
  using Step = std::variant<Form, Lowercase, Prepend, Replace, Strip, SentencePieceRules>;
  Step make_step(const Value& json, const std::string& place) const;
  static void run(const Form& step, Text& text);
  static void run(const Lowercase& step, Text& text);
  static void run(const Prepend& step, Text& text);
  static void run(const Replace& step, Text& text);
  static void run(const Strip& step, Text& text);
  static void run(const SentencePieceRules& step, Text& text);

  std::vector<Step> steps_;
};

}  // namespace lema

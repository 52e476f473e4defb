// How a SentencePiece model (tokenizer.model) rewrites a text before its BPE sees it: its
// normalizer_spec. A step of Normalizer, which applies it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/value.h"
#include "text/added_tokens.h"
#include "text/charsmap.h"

namespace lema {

class SentencePieceRules {
 public:
  // {"type": "SentencePiece", "charsmap": bytes of precompiled_charsmap or null, "dummy_prefix":
  // "always" | "first" | "never", "remove_extra_whitespaces", "escape_whitespaces": booleans,
  // "user_defined": strings that are kept as they are}. "first": only where the input begins, not
  // behind an added token. BadInput at `place`.
  SentencePieceRules(const Value& json, const std::string& place);

  struct Unit {
    size_t bytes;           // of the text
    std::string_view text;  // what they become
    bool kept;              // which is the same
  };
  // The user-defined string, else the entry of the map, else the character at text[at].
  Unit at(std::string_view text, size_t at) const;

  bool prefixes(int64_t origin) const {
    return prefix_ == Prefix::Always || (prefix_ == Prefix::First && origin == 0);
  }
  bool removes_extra_spaces() const { return removes_extra_spaces_; }
  bool escapes_spaces() const { return escapes_spaces_; }  // to U+2581

 private:
  enum class Prefix { Never, First, Always };
  std::optional<CharsMap> map_;
  AddedTokenMatcher user_defined_;
  Prefix prefix_ = Prefix::Always;
  bool removes_extra_spaces_ = true, escapes_spaces_ = true;
};

}  // namespace lema

// Pattern: a user's regular expression over replies, in PCRE2's own dialect. Used by `lema eval
// --task match`; the tokenizer's patterns are text/regex.h.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace lema {

class Pattern {
 public:
  // `place` names the pattern in errors. BadInput when PCRE2 rejects it.
  Pattern(std::string_view pattern, std::string place);
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;
  ~Pattern();

  // Whether it matches anywhere in `text` (valid UTF-8); anchors are the pattern's own. BadInput
  // when the match takes more than ten million steps. Threads: concurrent.
  bool matches(std::string_view text) const;

 private:
  struct Program;
  std::unique_ptr<const Program> program_;
};

}  // namespace lema

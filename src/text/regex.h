// Regular expressions, run by PCRE2. Those of tokenizer files are written for Oniguruma: their
// classes (\s, \w, \h, \p{..}) are rewritten to mean what they mean there. Those of PEFT configs
// are Python's. Used by the pre-tokenizer and normalizer, and by the rules of adapters.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace lema {

class Regex {
 public:
  // `place` names the pattern in errors. BadInput for a pattern that PCRE2 rejects or that means
  // something else there: class intersection (&&), nested sets, (?m), verbs.
  Regex(std::string_view pattern, std::string place);
  // Matches exactly this text.
  static Regex literal(std::string_view text, std::string place);
  // As Python's re compiles it; BadInput for what PCRE2 rejects. Not compiled to machine code: many
  // such patterns see a few short texts each.
  static Regex python(std::string_view pattern, std::string place);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Calls found(begin, end) for each match in `text` (valid UTF-8), left to right, not overlapping.
  // An empty match right after a match is passed over. BadInput when one match takes more than ten
  // million steps. Threads: concurrent.
  void each_match(std::string_view text, const std::function<void(size_t, size_t)>& found) const;
  // Whether all of `text` is one match: Python's re.fullmatch. `steps_left`, which the patterns of
  // a set share, falls by what the match may have taken, 128 at least. BadInput when nothing was
  // left or the match takes more than ten million steps. Threads: concurrent.
  bool matches_whole(std::string_view text, int64_t& steps_left) const;

 private:
  struct Program;
  explicit Regex(std::unique_ptr<const Program> program);
  std::unique_ptr<const Program> program_;
};

}  // namespace lema

// The pre-tokenizer of tokenizer.json: cuts a text into the words that the model encodes one by
// one. Used by Tokenizer::encode.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/value.h"
#include "text/piece.h"
#include "text/regex.h"

namespace lema {

class PreTokenizer {
 public:
  // tokenizer.json's "pre_tokenizer", possibly null. BadInput names unknown types.
  explicit PreTokenizer(const Value& json);

  // Whether the words are raw bytes that the vocabulary spells in the byte-level alphabet (for
  // Bpe): so when ByteLevel comes last. Where steps follow it, they see spelled words.
  bool byte_level() const { return byte_level_; }

  // Calls found(word) for each non-empty word of `piece`, in order; a word may live only during its
  // call. Threads: concurrent.
  void split(const Piece& piece, const std::function<void(const Piece&)>& found) const {
    run(0, piece, found);
  }

 private:
  // What becomes of the matches of a pattern; the names are those of tokenizer.json.
  enum class Behavior { Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous };
  enum class Prefix { Never, First, Always };  // First: only where the input begins
  struct Step {
    // First, spaces become `space`, which is also put before a piece that does not begin with it.
    std::string space = " ";
    Prefix prefix = Prefix::Never;
    // Then the piece is cut.
    std::optional<Regex> pattern;
    Behavior behavior = Behavior::Isolated;
    bool invert = false;  // what lies between the matches counts as match
    bool spells = false;  // the parts are written in the byte-level alphabet

    bool rewrites(const Piece& piece) const;
    void rewrite(const Piece& piece, std::string& text, std::vector<int64_t>& origin) const;
  };
  static Step make_step(const Value& json, const std::string& place);
  static Step make_metaspace(const Value& json, const std::string& place);
  static Behavior parse_behavior(const std::string& name, const std::string& place);
  void run(size_t index, const Piece& piece, const std::function<void(const Piece&)>& found) const;
  static void cut(const Step& step, const Piece& piece,
                  const std::function<void(const Piece&)>& found);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace lema

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
  // tokenizer.json's "pre_tokenizer", possibly null. BadInput names unknown types; ByteLevel must
  // come last.
  explicit PreTokenizer(const Value& json);

  // Whether the words are spelled in the byte-level alphabet (for Bpe).
  bool byte_level() const { return byte_level_; }

  // Calls found(word) for each non-empty word of `piece`, in order. Words stay raw bytes also when
  // byte_level(); a word may live only during its call. Threads: concurrent.
  void split(const Piece& piece, const std::function<void(const Piece&)>& found) const {
    run(0, piece, found);
  }

 private:
  // What becomes of the matches of a pattern; the names are those of tokenizer.json.
  enum class Behavior { Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous };
  struct Step {
    bool prefix_space = false;  // first puts a space before a piece that does not begin with one
    std::optional<Regex> pattern;
    Behavior behavior = Behavior::Isolated;
    bool invert = false;  // what lies between the matches counts as match
  };
  Step make_step(const Value& json, const std::string& place);
  static Behavior parse_behavior(const std::string& name, const std::string& place);
  void run(size_t index, const Piece& piece, const std::function<void(const Piece&)>& found) const;
  static void cut(const Step& step, const Piece& piece,
                  const std::function<void(const Piece&)>& found);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace lema

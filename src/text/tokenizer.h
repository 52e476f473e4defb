// Text to token ids and back, as tokenizer.json describes it and the `tokenizers` library 0.23 does
// it. Made by the model loader; used by data sets, chat and generation.
//
// encode: added tokens are cut out -> normalizer -> added tokens of the normalised text ->
// pre_tokenizer -> BPE -> post_processor. decode: tokens -> decoder. The other sections
// (truncation, padding) are ignored.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/value.h"
#include "text/token_decoder.h"

namespace lema {

// Immutable and move-only. Threads: concurrent.
class Tokenizer {
 public:
  // `tokenizer_json` is the parsed file; of tokenizer_config.json (null: there is none)
  // added_tokens_decoder is used: its entries replace or extend the file's added_tokens. BadInput
  // with the place: a part that is not supported, by name, or one that is malformed: ids that are
  // not unique or not below twice their count, merges of unknown tokens, empty added tokens,
  // unknown ids in the post-processor.
  static Tokenizer from_json(const Value& tokenizer_json, const Value* tokenizer_config);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  struct Encoding {
    std::vector<int32_t> ids;
    // begins[i]: byte of the input text where token i begins; for a token that the post-processor
    // adds, the end of the text it is added to. Not decreasing. Where normalisation changed the
    // text: where the changed stretch begins.
    std::vector<int64_t> begins;
  };
  // Any bytes up to 1 GiB; what is not UTF-8 is encoded as U+FFFD. add_special_tokens: apply the
  // post-processor. BadInput when a pattern of the tokenizer takes too many steps on this text.
  Encoding encode(std::string_view text, bool add_special_tokens) const;

  // Valid UTF-8: bytes that form no character become U+FFFD. Ids without a token vanish.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  int64_t vocab_size() const;  // largest id + 1
  std::optional<int32_t> id_of(std::string_view token) const;
  std::string token(int32_t id) const;  // as the file spells it; "" when no token has this id
  bool is_special(int32_t id) const;

 private:
  friend class StreamDecoder;
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);
  // nullopt: contributes nothing
  std::optional<std::string_view> shown(int32_t id, bool skip_special) const;
  const TokenDecoder& decoder() const;

  std::unique_ptr<const Parts> parts_;
};

// decode() one token at a time: what push and finish return, joined, is what decode returns for all
// ids.
class StreamDecoder {
 public:
  // `tokenizer` must outlive this.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  // The text that is certain after this token, often empty within a character.
  std::string push(int32_t id);
  // The rest; nothing may follow.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  TokenDecoder::State state_;
};

}  // namespace lema

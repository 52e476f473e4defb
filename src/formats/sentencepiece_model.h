// tokenizer.model: the protobuf that SentencePiece writes (Llama-2, Mistral, TinyLlama, Gemma).
// Ref: sentencepiece_model.proto of sentencepiece 0.2.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/value.h"

namespace lema {

struct SentencePieceModel {
  enum class Type { Normal = 1, Unknown, Control, UserDefined, Unused, Byte };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::Normal;
  };
  std::vector<Piece> pieces;  // index = id
  bool byte_fallback = false;
  std::string bos = "<s>", eos = "</s>", unknown;  // bos, eos: "" when the model has none
  std::string charsmap;                            // precompiled_charsmap, "" when there is none
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

// `bytes` is the file `place`. BadInput: malformed bytes; models that are no BPE, by name; pieces
// that are empty, given twice, not UTF-8 or unused; no or two unknown pieces; byte fallback without
// all 256 byte pieces; settings that change the text after the model (denormalizer,
// treat_whitespace_as_suffix).
SentencePieceModel read_sentencepiece(std::string_view bytes, const std::string& place);

// The model as a tokenizer.json. Control pieces and the unknown piece are special added tokens;
// user-defined ones are kept whole by the model itself, behind its prefix. prefix: "always",
// "first" or "never", where a text gets its leading U+2581.
Value sentencepiece_tokenizer_json(const SentencePieceModel& model, std::string_view prefix);

}  // namespace lema

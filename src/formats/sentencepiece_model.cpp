// Reading the model's protobuf, checking it, and writing it as a tokenizer.json.
#include "formats/sentencepiece_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <unordered_set>

#include "core/error.h"
#include "core/utf8.h"
#include "formats/protobuf.h"
#include "formats/tokenizer_parts.h"

namespace lema {
namespace {

using Model = SentencePieceModel;
using Field = ProtobufReader::Field;

// LIMIT: a piece of a few bytes takes up to 500 in memory, so that loading stays below 250 MB; the
// largest published model has 262144.
constexpr size_t kMaxPieces = 500'000;
constexpr size_t kMaxPieceBytes = 64 * 1024;

Model::Piece read_piece(ProtobufReader reader, size_t id, const std::string& place) {
  Model::Piece piece;
  for (Field field; reader.next(field);) {
    if (field.number == 1) piece.text = reader.bytes(field);
    if (field.number == 2) piece.score = reader.real(field);
    if (field.number == 3) {
      const int64_t type = reader.integer(field);
      if (type < 1 || type > 6)
        fail(ErrorCode::BadInput, "{}: piece {} has type {}, expected 1 to 6", place, id, type);
      piece.type = static_cast<Model::Type>(type);
    }
  }
  return piece;
}

void read_trainer(ProtobufReader reader, Model& model, const std::string& place) {
  int64_t type = 1;
  int64_t bos_id = 1, eos_id = 2;
  for (Field field; reader.next(field);) {
    if (field.number == 3) type = reader.integer(field);
    if (field.number == 24 && reader.integer(field) != 0)
      fail(ErrorCode::BadInput, "{}: treat_whitespace_as_suffix is not supported", place);
    if (field.number == 35) model.byte_fallback = reader.integer(field) != 0;
    if (field.number == 41) bos_id = reader.integer(field);
    if (field.number == 42) eos_id = reader.integer(field);
    if (field.number == 46) model.bos = reader.bytes(field);
    if (field.number == 47) model.eos = reader.bytes(field);
  }
  constexpr std::array<const char*, 5> kTypes = {"unknown", "unigram", "BPE", "word", "character"};
  if (type != 2)
    fail(ErrorCode::BadInput, "{}: a {} model (model_type {}) is not supported; supported: BPE",
         place, kTypes[type >= 1 && type <= 4 ? static_cast<size_t>(type) : 0], type);
  if (bos_id < 0) model.bos.clear();
  if (eos_id < 0) model.eos.clear();
}

void read_normalizer(ProtobufReader reader, Model& model) {
  for (Field field; reader.next(field);) {
    if (field.number == 2) model.charsmap = reader.bytes(field);
    if (field.number == 3) model.add_dummy_prefix = reader.integer(field) != 0;
    if (field.number == 4) model.remove_extra_whitespaces = reader.integer(field) != 0;
    if (field.number == 5) model.escape_whitespaces = reader.integer(field) != 0;
  }
}

void refuse_denormalizer(ProtobufReader reader, const std::string& place) {
  for (Field field; reader.next(field);)
    if (field.number == 2 && !reader.bytes(field).empty())
      fail(ErrorCode::BadInput, "{}: denormalizer_spec is not supported", place);
}

// Also: a merge can only make a piece out of pieces, so its characters are pieces.
void check_pieces(Model& model, const std::string& place) {
  std::unordered_set<std::string_view> known;
  std::array<bool, 256> bytes{};
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Model::Piece& piece = model.pieces[id];
    if (piece.text.empty() || piece.text.size() > kMaxPieceBytes || !is_valid_utf8(piece.text))
      fail(ErrorCode::BadInput, "{}: piece {} has {} bytes, expected 1 to {} of UTF-8", place, id,
           piece.text.size(), kMaxPieceBytes);
    if (!known.insert(piece.text).second)
      fail(ErrorCode::BadInput, "{}: piece {} \"{}\" is given twice", place, id,
           escaped(piece.text));
    if (!std::isfinite(piece.score))
      fail(ErrorCode::BadInput, "{}: the score of piece {} is not finite", place, id);
    if (piece.type == Model::Type::Unused)
      fail(ErrorCode::BadInput, "{}: piece {} \"{}\" is of type unused, which is not supported",
           place, id, escaped(piece.text));
    if (piece.type == Model::Type::Unknown) {
      if (!model.unknown.empty())
        fail(ErrorCode::BadInput, "{}: piece {} is a second unknown piece", place, id);
      model.unknown = piece.text;
    }
    if (piece.type == Model::Type::Byte)
      for (unsigned b = 0; b < 256; ++b)
        if (piece.text == fmt::format("<0x{:02X}>", b)) bytes[b] = true;
  }
  if (model.unknown.empty()) fail(ErrorCode::BadInput, "{}: there is no unknown piece", place);
  if (model.byte_fallback && std::count(bytes.begin(), bytes.end(), true) != 256)
    fail(ErrorCode::BadInput, "{}: byte_fallback without all byte pieces <0x00> to <0xFF>", place);
  for (const Model::Piece& piece : model.pieces)
    for (size_t at = 0; piece.type == Model::Type::Normal && at < piece.text.size();) {
      const size_t size = character_at(piece.text, at).bytes;
      if (!known.contains(std::string_view(piece.text).substr(at, size)))
        fail(ErrorCode::BadInput, "{}: piece \"{}\" has a character that is no piece", place,
             escaped(piece.text));
      at += size;
    }
}

// Normal pieces by score, best first; equal scores have equal ranks: then the leftmost merges.
Value::Array piece_ranks(const Model& model) {
  std::vector<float> scores;
  for (const Model::Piece& piece : model.pieces)
    if (piece.type == Model::Type::Normal) scores.push_back(piece.score);
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  Value::Array ranks;
  for (const Model::Piece& piece : model.pieces) {
    const auto place =
        std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>());
    ranks.push_back(piece.type == Model::Type::Normal ? int64_t{place - scores.begin()}
                                                      : int64_t{-1});
  }
  return ranks;
}

}  // namespace

SentencePieceModel read_sentencepiece(std::string_view bytes, const std::string& place) {
  SentencePieceModel model;
  ProtobufReader reader(bytes, place);
  bool has_trainer = false;
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      if (model.pieces.size() == kMaxPieces)
        fail(ErrorCode::BadInput, "{}: more than {} pieces", place, kMaxPieces);
      model.pieces.push_back(read_piece(reader.message(field), model.pieces.size(), place));
    } else if (field.number == 2) {
      read_trainer(reader.message(field), model, place);
      has_trainer = true;
    } else if (field.number == 3) {
      read_normalizer(reader.message(field), model);
    } else if (field.number == 5) {
      refuse_denormalizer(reader.message(field), place);
    }
  }
  if (!has_trainer || model.pieces.empty())
    fail(ErrorCode::BadInput, "{}: no SentencePiece model: pieces or trainer_spec are missing",
         place);
  check_pieces(model, place);
  return model;
}

Value sentencepiece_tokenizer_json(const SentencePieceModel& model, std::string_view prefix) {
  Value::Object vocab;
  Value::Array added, user_defined, user_defined_ids;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    const int64_t id = std::ssize(vocab);
    vocab.emplace_back(piece.text, id);
    if (piece.type == Model::Type::Control || piece.type == Model::Type::Unknown)
      added.push_back(added_token_json(id, piece.text, true));
    if (piece.type != Model::Type::UserDefined) continue;
    user_defined.push_back(piece.text);
    user_defined_ids.push_back(id);
  }
  const char* strip = model.remove_extra_whitespaces ? "all"
                      : model.add_dummy_prefix       ? "first"
                                                     : "none";
  return Value::Object{
      {"added_tokens", std::move(added)},
      {"normalizer",
       Value::Object{{"type", "SentencePiece"},
                     {"charsmap", model.charsmap.empty() ? Value() : Value(model.charsmap)},
                     {"dummy_prefix", prefix},
                     {"remove_extra_whitespaces", model.remove_extra_whitespaces},
                     {"escape_whitespaces", model.escape_whitespaces},
                     {"user_defined", std::move(user_defined)}}},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", Value::Object{{"type", "SentencePiece"}, {"strip", strip}}},
      {"model", Value::Object{{"type", "BPE"},
                              {"unk_token", model.unknown},
                              {"fuse_unk", true},
                              {"byte_fallback", model.byte_fallback},
                              {"vocab", std::move(vocab)},
                              {"token_ranks", piece_ranks(model)},
                              {"user_defined", std::move(user_defined_ids)}}}};
}

}  // namespace lema

// Decoder steps as a pipeline: each passes on what is final.
#include "text/token_decoder.h"

#include <optional>

#include "core/byte_level.h"
#include "core/error.h"
#include "text/tokenizer_fields.h"
#include "text/unicode.h"

namespace lema {
namespace {

// The value of "<0xHH>".
std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    if (c >= '0' && c <= '9')
      value = value * 16 + (c - '0');
    else if (c >= 'A' && c <= 'F')
      value = value * 16 + (c - 'A' + 10);
    else if (c >= 'a' && c <= 'f')
      value = value * 16 + (c - 'a' + 10);
    else
      return std::nullopt;
  }
  return static_cast<char>(value);
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at = 0;;) {
    const size_t hit = text.find(from, at);
    out += text.substr(at, hit == std::string_view::npos ? hit : hit - at);
    if (hit == std::string_view::npos) return out;
    out += to;
    at = hit + from.size();
  }
}

std::string_view stripped(std::string_view token, std::string_view character, int64_t start,
                          int64_t stop) {
  for (; start > 0 && token.starts_with(character); --start) token.remove_prefix(character.size());
  for (; stop > 0 && token.ends_with(character); --stop) token.remove_suffix(character.size());
  return token;
}

}  // namespace

TokenDecoder::TokenDecoder(const Value& json) : spaced_(json.is_null()) {
  bool joined = false;
  fields::each_stage(
      json, "decoders", "tokenizer.json: decoder",
      [&](const Value& stage, const std::string& place) {
        const std::string& type = fields::text(stage, "type", place);
        Step step;
        step.joined = joined;
        if (type == "ByteLevel") {
          step.kind = Kind::ByteLevel;
        } else if (type == "ByteFallback") {
          step.kind = Kind::ByteFallback;
        } else if (type == "Replace") {
          const fields::Pattern pattern = fields::pattern(stage, place);
          if (pattern.regex)
            fail(ErrorCode::BadInput, "{}: Replace by a regular expression is not supported",
                 place);
          step.kind = Kind::Replace;
          step.from = pattern.text;
          step.to = fields::text(stage, "content", place);
        } else if (type == "Metaspace") {
          step.kind = Kind::Metaspace;
          step.from = fields::text(stage, "replacement", place);
          step.to = " ";
          if (step.from.empty()) fail(ErrorCode::BadInput, "{}: replacement is empty", place);
          const Value* scheme = stage.find("prepend_scheme");
          step.drops_first = scheme != nullptr && scheme->is_string()
                                 ? scheme->as_string() != "never"
                                 : fields::flag(stage, "add_prefix_space", true, place);
        } else if (type == "SentencePiece") {
          const std::string& strip = fields::text(stage, "strip", place);
          if (strip != "none" && strip != "first" && strip != "all")
            fail(ErrorCode::BadInput, "{}: strip \"{}\", expected none, first or all", place,
                 escaped(strip));
          step.kind = Kind::SentencePiece;
          step.drops_first = strip != "none";
          step.drops_all = strip == "all";
        } else if (type == "Strip") {
          step.kind = Kind::Strip;
          step.from = fields::text(stage, "content", place);
          step.start = fields::integer(stage, "start", place);
          step.stop = fields::integer(stage, "stop", place);
          if (step.from.empty() || character_at(step.from, 0).bytes != step.from.size())
            fail(ErrorCode::BadInput, "{}: content is \"{}\", expected one character", place,
                 escaped(step.from));
        } else if (type != "Fuse") {
          fields::unsupported("decoder", type,
                              "ByteLevel, Metaspace, ByteFallback, Fuse, Replace, Strip, Sequence",
                              place);
        }
        const bool streams =
            step.kind == Kind::Fuse || (step.kind == Kind::Strip && step.stop == 0);
        if (joined && !streams)
          fail(ErrorCode::BadInput, "{}: {} after the tokens are joined is not supported", place,
               type);
        joined = joined || step.kind == Kind::Fuse || step.kind == Kind::ByteLevel;
        steps_.push_back(std::move(step));
      });
  int64_t joined_strips = 0;
  for (const Step& step : steps_) joined_strips += step.joined && step.kind == Kind::Strip;
  if (joined_strips > 1)
    fail(ErrorCode::BadInput,
         "tokenizer.json: decoder: more than one Strip of the joined text is not supported");
}

void TokenDecoder::push(State& state, std::string_view token, std::string& out) const {
  if (spaced_ && state.tokens > 0) out += ' ';
  ++state.tokens;
  feed(state, 0, token, out);
}

void TokenDecoder::finish(State& state, std::string& out) const {
  for (size_t i = 0; i < steps_.size(); ++i) flush(state, i, out);
}

void TokenDecoder::feed(State& state, size_t index, std::string_view token,
                        std::string& out) const {
  if (index == steps_.size()) {
    out += token;
    return;
  }
  const Step& step = steps_[index];
  switch (step.kind) {
    case Kind::Fuse:
      return feed(state, index + 1, token, out);
    case Kind::Replace:
      return feed(state, index + 1, replaced(token, step.from, step.to), out);
    case Kind::Metaspace:
      return feed(state, index + 1,
                  replaced(token, step.from, step.drops_first && state.tokens == 1 ? "" : step.to),
                  out);
    case Kind::Strip:
      if (step.joined) return feed(state, index + 1, strip_front(state, step, token), out);
      return feed(state, index + 1, stripped(token, step.from, step.start, step.stop), out);
    case Kind::ByteFallback:
      if (const auto byte = fallback_byte(token)) {
        state.run += *byte;
        return;
      }
      end_run(state, index, out);
      return feed(state, index + 1, token, out);
    case Kind::SentencePiece:
      return feed_piece(state, index, token, out);
    case Kind::ByteLevel:
      if (!append_byte_level_bytes(state.cut, token)) state.cut += token;
      return feed(state, index + 1, take_characters(state.cut, false), out);
  }
}

// Takes whole characters off the front of `bytes`, leaving the beginning of one. What is none
// becomes one U+FFFD per stretch, or one per byte.
std::string TokenDecoder::take_characters(std::string& bytes, bool each_byte) {
  std::string text;
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Unit unit = first_unit(std::string_view(bytes).substr(at));
    if (unit.kind == Utf8Unit::Kind::Cut) break;
    if (unit.kind == Utf8Unit::Kind::Character) text.append(bytes, at, unit.bytes);
    for (size_t i = 0; unit.kind == Utf8Unit::Kind::Invalid && i < (each_byte ? unit.bytes : 1);
         ++i)
      text += kReplacementCharacter;
    at += unit.bytes;
  }
  bytes.erase(0, at);
  return text;
}

// Ref: SentencePieceProcessor::Decode of sentencepiece.
void TokenDecoder::feed_piece(State& state, size_t index, std::string_view token,
                              std::string& out) const {
  const Step& step = steps_[index];
  if (const auto byte = fallback_byte(token)) {
    state.strip_ended = true;
    state.cut += *byte;
    return feed(state, index + 1, take_characters(state.cut, true), out);
  }
  flush(state, index, out);
  if (step.drops_first && !state.strip_ended && token.starts_with(kMetaspace)) {
    token.remove_prefix(kMetaspace.size());
    state.strip_ended = !step.drops_all;
  }
  if (!token.empty()) state.strip_ended = true;
  feed(state, index + 1, replaced(token, kMetaspace, " "), out);
}

void TokenDecoder::flush(State& state, size_t index, std::string& out) const {
  if (steps_[index].kind == Kind::ByteFallback) end_run(state, index, out);
  if (steps_[index].kind == Kind::ByteLevel && !state.cut.empty()) {
    state.cut.clear();
    feed(state, index + 1, kReplacementCharacter, out);
  }
  for (; steps_[index].kind == Kind::SentencePiece && !state.cut.empty(); state.cut.pop_back())
    feed(state, index + 1, kReplacementCharacter, out);
}

// A run of byte tokens is text when all of it is valid, else one U+FFFD per byte.
void TokenDecoder::end_run(State& state, size_t index, std::string& out) const {
  if (state.run.empty()) return;
  const std::string run = std::exchange(state.run, {});
  if (is_valid_utf8(run)) return feed(state, index + 1, run, out);
  for (size_t i = 0; i < run.size(); ++i) feed(state, index + 1, kReplacementCharacter, out);
}

std::string_view TokenDecoder::strip_front(State& state, const Step& step, std::string_view text) {
  while (!state.strip_ended && !text.empty()) {
    if (state.stripped < step.start && text.starts_with(step.from)) {
      text.remove_prefix(step.from.size());
      ++state.stripped;
    } else {
      state.strip_ended = true;
    }
  }
  return text;
}

}  // namespace lema

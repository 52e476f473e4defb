// The steps of a normalizer, each rewriting a text together with its map to the input's offsets.
#include "text/normalizer.h"

#include <algorithm>

#include "core/error.h"
#include "text/tokenizer_fields.h"

namespace lema {
namespace {

// Builds a rewritten text beside the one it comes from.
class Rewriter {
 public:
  explicit Rewriter(const Normalizer::Text& from) : from_(from) {
    to_.limit = from.limit;
    to_.text.reserve(from.text.size());
    to_.origin.reserve(from.text.size());
  }
  void keep(size_t begin, size_t end) {
    check_room(end - begin);
    to_.text.append(from_.text, begin, end - begin);
    to_.origin.insert(to_.origin.end(), from_.origin.begin() + static_cast<std::ptrdiff_t>(begin),
                      from_.origin.begin() + static_cast<std::ptrdiff_t>(end));
  }
  // New bytes that stand for the stretch that begins at `begin` of the old text.
  void put(std::string_view text, size_t begin) {
    check_room(text.size());
    to_.text += text;
    const int64_t origin = begin < from_.origin.size() ? from_.origin[begin]
                           : from_.origin.empty()      ? 0
                                                       : from_.origin.back();
    to_.origin.insert(to_.origin.end(), text.size(), origin);
  }
  // Takes `end` off the end of what was written, as often as it is there.
  void drop_at_end(std::string_view end) {
    while (to_.text.ends_with(end)) to_.text.resize(to_.text.size() - end.size());
    to_.origin.resize(to_.text.size());
  }
  Normalizer::Text take() { return std::move(to_); }

 private:
  void check_room(size_t bytes) const {
    if (bytes > to_.limit - std::min(to_.limit, to_.text.size()))
      fail(ErrorCode::BadInput, "tokenizer.json: normalizer: a text grows beyond {} bytes",
           to_.limit);
  }

  const Normalizer::Text& from_;
  Normalizer::Text to_;
};

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }
bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

Normalizer::Normalizer(const Value& json) {
  fields::each_stage(json, "normalizers", "tokenizer.json: normalizer",
                     [&](const Value& stage, const std::string& place) {
                       steps_.push_back(make_step(stage, place));
                     });
}

Normalizer::Step Normalizer::make_step(const Value& json, const std::string& place) const {
  const std::string& type = fields::text(json, "type", place);
  if (type == "NFC") return Form{NormalForm::NFC};
  if (type == "NFD") return Form{NormalForm::NFD};
  if (type == "NFKC") return Form{NormalForm::NFKC};
  if (type == "NFKD") return Form{NormalForm::NFKD};
  if (type == "Lowercase") return Lowercase{};
  if (type == "Prepend") return Prepend{fields::text(json, "prepend", place)};
  if (type == "SentencePiece") return SentencePieceRules(json, place);
  if (type == "Strip")
    return Strip{fields::flag(json, "strip_left", true, place),
                 fields::flag(json, "strip_right", true, place)};
  if (type == "Replace") {
    const fields::Pattern pattern = fields::pattern(json, place);
    const std::string& content = fields::text(json, "content", place);
    if (pattern.regex && content.find('$') != std::string::npos)
      fail(ErrorCode::BadInput, "{}: a group reference in content is not supported", place);
    return Replace{pattern.regex ? Regex(pattern.text, place) : Regex::literal(pattern.text, place),
                   content};
  }
  fields::unsupported("normalizer", type,
                      "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, Sequence", place);
}

bool Normalizer::keeps(std::string_view text) const {
  for (const Step& step : steps_)
    if (!std::holds_alternative<Form>(step)) return false;
  return steps_.empty() || std::all_of(text.begin(), text.end(), is_ascii);
}

void Normalizer::apply(Text& text) const {
  text.limit = text.text.size() * 64 + (size_t{1} << 20);
  for (const Step& step : steps_) std::visit([&](const auto& s) { run(s, text); }, step);
}

std::string Normalizer::apply(std::string_view text) const {
  Text work{std::string(text), std::vector<int64_t>(text.size(), 0)};
  apply(work);
  return std::move(work.text);
}

// A character of ASCII never changes and nothing composes across its left side, so the text is
// normalised stretch by stretch, each an ASCII character with what is not ASCII behind it.
void Normalizer::run(const Form& step, Text& text) {
  if (std::all_of(text.text.begin(), text.text.end(), is_ascii)) return;
  const std::string_view all = text.text;
  Rewriter out(text);
  for (size_t begin = 0; begin < all.size();) {
    size_t end = begin + 1;
    while (end < all.size() && !is_ascii(all[end])) ++end;
    const std::string_view before = all.substr(begin, end - begin);
    if (before.size() == 1) {
      out.keep(begin, end);
      begin = end;
      continue;
    }
    const std::string after = normal_form(before, step.form);
    // What both ends share keeps its offsets; the rest stands for the start of the changed stretch.
    size_t head = 0, tail = 0;
    while (head < before.size() && head < after.size() && before[head] == after[head]) ++head;
    while (head > 0 && ((head < before.size() && is_continuation(before[head])) ||
                        (head < after.size() && is_continuation(after[head]))))
      --head;
    const size_t room = std::min(before.size(), after.size()) - head;
    while (tail < room && before[before.size() - 1 - tail] == after[after.size() - 1 - tail])
      ++tail;
    out.keep(begin, begin + head);
    out.put(std::string_view(after).substr(head, after.size() - head - tail), begin + head);
    out.keep(end - tail, end);
    begin = end;
  }
  text = out.take();
}

void Normalizer::run(const Lowercase&, Text& text) {
  Rewriter out(text);
  std::string lower;
  for (size_t at = 0; at < text.text.size();) {
    const Character c = character_at(text.text, at);
    lower.clear();
    append_lower(lower, c.code);
    out.put(lower, at);
    at += c.bytes;
  }
  text = out.take();
}

void Normalizer::run(const Prepend& step, Text& text) {
  if (text.text.empty()) return;
  Rewriter out(text);
  out.put(step.text, 0);
  out.keep(0, text.text.size());
  text = out.take();
}

void Normalizer::run(const Replace& step, Text& text) {
  Rewriter out(text);
  size_t kept = 0;
  step.pattern.each_match(text.text, [&](size_t begin, size_t end) {
    out.keep(kept, begin);
    out.put(step.content, begin);
    kept = end;
  });
  out.keep(kept, text.text.size());
  text = out.take();
}

// Ref: Normalizer::Normalize of sentencepiece.
void Normalizer::run(const SentencePieceRules& step, Text& text) {
  const std::string_view all = text.text;
  const std::string_view space = step.escapes_spaces() ? kMetaspace : " ";
  size_t at = 0;
  if (step.removes_extra_spaces())
    for (; at < all.size(); at += step.at(all, at).bytes)
      if (step.at(all, at).text != " ") break;
  Rewriter out(text);
  if (at < all.size() && step.prefixes(text.origin[0])) out.put(space, at);
  bool after_space = step.removes_extra_spaces();
  while (at < all.size()) {
    const auto [bytes, unit, kept] = step.at(all, at);
    std::string_view rest = unit;
    while (after_space && rest.starts_with(' ')) rest.remove_prefix(1);
    if (kept && rest.size() == unit.size() && rest.find(' ') == std::string_view::npos) {
      out.keep(at, at + bytes);
    } else {
      for (size_t i = 0; i < rest.size();) {
        const size_t end = rest[i] == ' ' ? i + 1 : std::min(rest.find(' ', i), rest.size());
        out.put(rest[i] == ' ' ? space : rest.substr(i, end - i), at);
        i = end;
      }
    }
    if (!rest.empty()) after_space = step.removes_extra_spaces() && rest.ends_with(' ');
    at += bytes;
  }
  if (step.removes_extra_spaces()) out.drop_at_end(space);
  text = out.take();
}

void Normalizer::run(const Strip& step, Text& text) {
  size_t begin = 0, end = text.text.size();
  while (step.left && begin < end) {
    const Character c = character_at(text.text, begin);
    if (!is_space(c.code)) break;
    begin += c.bytes;
  }
  while (step.right && begin < end) {
    const Character c = character_before(text.text, end);
    if (!is_space(c.code)) break;
    end -= c.bytes;
  }
  Rewriter out(text);
  out.keep(begin, end);
  text = out.take();
}

}  // namespace lema

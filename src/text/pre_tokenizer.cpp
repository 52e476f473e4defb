// Every supported pre-tokenizer is a list of steps "maybe rewrite spaces, then cut by a pattern".
#include "text/pre_tokenizer.h"

#include "core/byte_level.h"
#include "core/error.h"
#include "text/tokenizer_fields.h"

namespace lema {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Digits asks Rust's char::is_numeric, which knows Unicode 17.
constexpr std::string_view kNumericPattern = R"([\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}])";
constexpr std::string_view kPunctuationPattern =
    R"([\p{P}\x{21}-\x{2F}\x{3A}-\x{40}\x{5B}-\x{60}\x{7B}-\x{7E}])";
// \w+|[^\w\s]+ as Rust's regex crate means it: joiners and circled letters are words.
constexpr std::string_view kWordsPattern =
    R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200C}\x{200D}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149})"
    R"(\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}]+|)"
    R"([^\s\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200C}\x{200D}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149})"
    R"(\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}]+)";
constexpr std::string_view kKnown =
    "ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, "
    "CharDelimiterSplit, Sequence";

}  // namespace

PreTokenizer::PreTokenizer(const Value& json) {
  fields::each_stage(
      json, "pretokenizers", "tokenizer.json: pre_tokenizer",
      [&](const Value& stage, const std::string& place) {
        steps_.push_back(make_step(stage, place));
      });
  if (steps_.empty() || !steps_.back().spells) return;
  byte_level_ = true;
  steps_.back().spells = false;
}

PreTokenizer::Step PreTokenizer::make_step(const Value& json, const std::string& place) {
  const std::string& type = fields::text(json, "type", place);
  Step step;
  if (type == "Metaspace") return make_metaspace(json, place);
  if (type == "ByteLevel") {
    step.spells = true;
    if (fields::flag(json, "add_prefix_space", true, place)) step.prefix = Prefix::Always;
    if (fields::flag(json, "use_regex", true, place)) step.pattern.emplace(kGpt2Pattern, place);
  } else if (type == "Digits") {
    step.pattern.emplace(kNumericPattern, place);
    if (!fields::flag(json, "individual_digits", false, place))
      step.behavior = Behavior::Contiguous;
  } else if (type == "Split") {
    const fields::Pattern pattern = fields::pattern(json, place);
    step.pattern = pattern.regex ? Regex(pattern.text, place) : Regex::literal(pattern.text, place);
    step.behavior = parse_behavior(fields::text(json, "behavior", place), place);
    step.invert = fields::flag(json, "invert", false, place);
  } else if (type == "Punctuation") {
    step.pattern.emplace(kPunctuationPattern, place);
    if (json.find("behavior") != nullptr)
      step.behavior = parse_behavior(fields::text(json, "behavior", place), place);
  } else if (type == "Whitespace") {
    step.pattern.emplace(kWordsPattern, place);
    step.behavior = Behavior::Removed;
    step.invert = true;
  } else if (type == "WhitespaceSplit") {
    step.pattern.emplace(R"(\s)", place);
    step.behavior = Behavior::Removed;
  } else if (type == "CharDelimiterSplit") {
    step.pattern = Regex::literal(fields::text(json, "delimiter", place), place);
    step.behavior = Behavior::Removed;
  } else {
    fields::unsupported("pre-tokenizer", type, kKnown, place);
  }
  return step;
}

// Files older than prepend_scheme say add_prefix_space.
PreTokenizer::Step PreTokenizer::make_metaspace(const Value& json, const std::string& place) {
  Step step;
  step.space = fields::text(json, "replacement", place);
  if (step.space.empty()) fail(ErrorCode::BadInput, "{}: replacement is empty", place);
  if (fields::flag(json, "split", true, place)) {
    step.pattern = Regex::literal(step.space, place);
    step.behavior = Behavior::MergedWithNext;
  }
  const Value* scheme = json.find("prepend_scheme");
  if (scheme == nullptr || scheme->is_null()) {
    if (fields::flag(json, "add_prefix_space", true, place)) step.prefix = Prefix::Always;
    return step;
  }
  const std::string& name = fields::text(json, "prepend_scheme", place);
  if (name == "always")
    step.prefix = Prefix::Always;
  else if (name == "first")
    step.prefix = Prefix::First;
  else if (name != "never")
    fields::unsupported("prepend_scheme", name, "first, always, never", place);
  return step;
}

PreTokenizer::Behavior PreTokenizer::parse_behavior(const std::string& name,
                                                    const std::string& place) {
  if (name == "Removed") return Behavior::Removed;
  if (name == "Isolated") return Behavior::Isolated;
  if (name == "MergedWithPrevious") return Behavior::MergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::MergedWithNext;
  if (name == "Contiguous") return Behavior::Contiguous;
  fields::unsupported("behavior", name,
                      "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous", place);
}

bool PreTokenizer::Step::rewrites(const Piece& piece) const {
  if (space != " " && piece.text.find(' ') != std::string_view::npos) return true;
  return (prefix == Prefix::Always || (prefix == Prefix::First && piece.offset(0) == 0)) &&
         !piece.text.starts_with(space);
}

// A space that is put in front stands where the piece begins.
void PreTokenizer::Step::rewrite(const Piece& piece, std::string& text,
                                 std::vector<int64_t>& origin) const {
  const bool wanted =
      prefix == Prefix::Always || (prefix == Prefix::First && piece.offset(0) == 0);
  if (wanted && piece.text[0] != ' ' && !piece.text.starts_with(space)) {
    text = space;
    origin.assign(space.size(), piece.offset(0));
  }
  for (size_t i = 0; i < piece.text.size(); ++i) {
    const bool is_space = piece.text[i] == ' ';
    if (is_space)
      text += space;
    else
      text += piece.text[i];
    origin.insert(origin.end(), is_space ? space.size() : 1, piece.offset(i));
  }
}

void PreTokenizer::run(size_t index, const Piece& piece,
                       const std::function<void(const Piece&)>& found) const {
  if (piece.text.empty()) return;
  if (index == steps_.size()) return found(piece);
  const Step& step = steps_[index];
  const auto spelled = [&](const Piece& part) {
    std::string text;
    std::vector<int64_t> origin;
    for (size_t i = 0; i < part.text.size(); ++i) {
      text += byte_level_spelling(part.text.substr(i, 1));
      origin.resize(text.size(), part.offset(i));
    }
    run(index + 1, {text, 0, origin.data()}, found);
  };
  const auto next = [&](const Piece& part) {
    if (step.spells) return spelled(part);
    run(index + 1, part, found);
  };
  if (!step.rewrites(piece)) return cut(step, piece, next);
  std::string text;
  std::vector<int64_t> origin;
  step.rewrite(piece, text, origin);
  cut(step, {text, 0, origin.data()}, next);
}

// The pattern cuts the piece into stretches that match and stretches that do not; `last` is the
// stretch that the behaviour may still join with its neighbour.
void PreTokenizer::cut(const Step& step, const Piece& piece,
                       const std::function<void(const Piece&)>& found) {
  if (!step.pattern) return found(piece);
  struct Stretch {
    size_t begin, end;
    bool match;
  };
  std::optional<Stretch> last;
  const auto joins = [&](const Stretch& a, const Stretch& b) {
    switch (step.behavior) {
      case Behavior::MergedWithPrevious:
        return !a.match && b.match;
      case Behavior::MergedWithNext:
        return a.match && !b.match;
      case Behavior::Contiguous:
        return a.match == b.match;
      default:
        return false;
    }
  };
  const auto flush = [&] {
    if (last && !(last->match && step.behavior == Behavior::Removed))
      found(piece.slice(last->begin, last->end));
  };
  const auto add = [&](size_t begin, size_t end, bool match) {
    const Stretch stretch{begin, end, match != step.invert};
    if (last && joins(*last, stretch)) {
      last->end = end;
      last->match = stretch.match;
    } else {
      flush();
      last = stretch;
    }
  };
  size_t done = 0;
  step.pattern->each_match(piece.text, [&](size_t begin, size_t end) {
    if (done != begin) add(done, begin, false);
    add(begin, end, true);
    done = end;
  });
  if (done != piece.text.size()) add(done, piece.text.size(), false);
  flush();
}

}  // namespace lema

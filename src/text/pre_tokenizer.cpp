// Every supported pre-tokenizer is a list of steps "maybe a space in front, then cut by a pattern".
#include "text/pre_tokenizer.h"

#include "core/error.h"
#include "text/tokenizer_fields.h"

namespace lema {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Digits asks Rust's char::is_numeric, which knows Unicode 17.
constexpr std::string_view kNumericPattern = R"([\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}])";

}  // namespace

PreTokenizer::PreTokenizer(const Value& json) {
  fields::each_stage(json, "pretokenizers", "tokenizer.json: pre_tokenizer",
                     [&](const Value& stage, const std::string& place) {
                       if (byte_level_)
                         fail(ErrorCode::BadInput,
                              "{}: a pre-tokenizer after ByteLevel is not supported", place);
                       steps_.push_back(make_step(stage, place));
                     });
}

PreTokenizer::Step PreTokenizer::make_step(const Value& json, const std::string& place) {
  const std::string& type = fields::text(json, "type", place);
  Step step;
  if (type == "ByteLevel") {
    byte_level_ = true;
    step.prefix_space = fields::flag(json, "add_prefix_space", true, place);
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
  } else {
    fields::unsupported("pre-tokenizer", type, "ByteLevel, Digits, Split, Sequence", place);
  }
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

void PreTokenizer::run(size_t index, const Piece& piece,
                       const std::function<void(const Piece&)>& found) const {
  if (piece.text.empty()) return;
  if (index == steps_.size()) return found(piece);
  const Step& step = steps_[index];
  const auto next = [&](const Piece& part) { run(index + 1, part, found); };
  if (!step.prefix_space || piece.text[0] == ' ') return cut(step, piece, next);
  const std::string text = " " + std::string(piece.text);
  std::vector<int64_t> origin(text.size(),
                              piece.offset(0));  // the space stands where the piece begins
  for (size_t i = 1; i < text.size(); ++i) origin[i] = piece.offset(i - 1);
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

// What differs between the two engines: \s without U+180E, \w with marks, \h as a hex digit, nested
// sets, and the Unicode version: Oniguruma 6.9.10 knows Unicode 16, distributions ship PCRE2 with
// Unicode 14.
#include "text/regex_dialect.h"

#include <array>
#include <optional>

#include "core/error.h"

namespace lema {
namespace {

struct NewerCharacters {
  std::string_view property;
  std::string_view ranges;
};
// Characters assigned after Unicode 14, as members of a set.
// LIMIT: other properties follow the Unicode version of the PCRE2 at hand.
constexpr std::array<NewerCharacters, 6> kNewer = {{
    {"L",
     R"(\x{1C89}\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65}\x{10D6F}-\x{10D85})"
     R"(\x{10EC2}-\x{10EC4}\x{1123F}\x{11240}\x{11380}-\x{11389}\x{1138B}\x{1138E}\x{11390}-\x{113B5}\x{113B7})"
     R"(\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{11F02}\x{11F04}-\x{11F10}\x{11F12}-\x{11F33}\x{1342F})"
     R"(\x{13441}-\x{13446}\x{13460}-\x{143FA}\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155})"
     R"(\x{1DF25}-\x{1DF2A}\x{1E030}-\x{1E06D}\x{1E4D0}-\x{1E4EB}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2B739})"
     R"(\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})"},
    {"N",
     R"(\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{11F50}-\x{11F59}\x{16130}-\x{16139})"
     R"(\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1D2C0}-\x{1D2D3}\x{1E4F0}-\x{1E4F9}\x{1E5F1}-\x{1E5FA})"},
    {"M",
     R"(\x{897}\x{CF3}\x{ECE}\x{10D69}-\x{10D6D}\x{10EFC}-\x{10EFF}\x{11241}\x{113B8}-\x{113C0}\x{113C2}\x{113C5})"
     R"(\x{113C7}-\x{113CA}\x{113CC}-\x{113D0}\x{113D2}\x{113E1}\x{113E2}\x{11F00}\x{11F01}\x{11F03})"
     R"(\x{11F34}-\x{11F3A}\x{11F3E}-\x{11F42}\x{11F5A}\x{13440}\x{13447}-\x{13455}\x{1611E}-\x{1612F}\x{1E08F})"
     R"(\x{1E4EC}-\x{1E4EF}\x{1E5EE}\x{1E5EF})"},
    {"Lu", R"(\x{1C89}\x{A7CB}\x{A7CC}\x{A7DA}\x{A7DC}\x{10D50}-\x{10D65})"},
    {"Ll", R"(\x{1C8A}\x{A7CD}\x{A7DB}\x{10D70}-\x{10D85}\x{1DF25}-\x{1DF2A})"},
    {"Lo",
     R"(\x{105C0}-\x{105F3}\x{10D4A}-\x{10D4D}\x{10D4F}\x{10EC2}-\x{10EC4}\x{1123F}\x{11240}\x{11380}-\x{11389})"
     R"(\x{1138B}\x{1138E}\x{11390}-\x{113B5}\x{113B7}\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{11F02})"
     R"(\x{11F04}-\x{11F10}\x{11F12}-\x{11F33}\x{1342F}\x{13441}-\x{13446}\x{13460}-\x{143FA}\x{16100}-\x{1611D})"
     R"(\x{16D43}-\x{16D6A}\x{18CFF}\x{1B132}\x{1B155}\x{1E4D0}-\x{1E4EA}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2B739})"
     R"(\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})"},
}};

std::string with_newer(std::string_view property) {
  std::string set = fmt::format("\\p{{{}}}", property);
  for (const auto& newer : kNewer)
    if (newer.property == property) set += newer.ranges;
  return set;
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& place) : in_(pattern), place_(place) {}

  std::string run() {
    while (at_ < in_.size()) {
      if (in_[at_] == '\\')
        escape();
      else if (set_ == Set::None)
        outside();
      else
        inside();
    }
    if (set_ != Set::None) refuse("an unclosed set");
    return std::move(out_);
  }

 private:
  enum class Set { None, First, Inside };  // First: right after "[" or "[^", where "]" is a literal

  [[noreturn]] void refuse(std::string_view what) const {
    fail(ErrorCode::BadInput, "{}: pattern \"{}\" has {} at byte {}, which is not supported",
         place_, escaped(in_), what, at_);
  }
  bool starts(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void copy(size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }
  // Members of a set, in or outside brackets.
  void members(const std::string& set, bool negated) {
    if (set_ == Set::None)
      out_ += (negated ? "[^" : "[") + set + "]";
    else
      out_ += set;
  }

  void outside() {
    if (in_[at_] == '[') {
      copy(1);
      if (starts("^")) copy(1);
      set_ = Set::First;
    } else if (starts("(?")) {
      options();
    } else if (starts("(*")) {
      refuse("a verb (*");
    } else if (starts("{,")) {
      out_ += "{0,";
      at_ += 2;
    } else {
      copy(1);
    }
  }

  void options() {
    const std::string_view letters =
        in_.substr(at_ + 2, in_.find_first_not_of("imxWDSPay-", at_ + 2) - at_ - 2);
    if (const size_t odd = letters.find_first_not_of("ix-"); odd != std::string_view::npos)
      refuse(fmt::format("the option (?{})", letters[odd]));
    copy(2);
  }

  void inside() {
    if (in_[at_] == ']' && set_ != Set::First) {
      copy(1);
      set_ = Set::None;
      return;
    }
    if (starts("&&")) refuse("a set intersection &&");
    if (starts("[:")) {
      const size_t end = in_.find(":]", at_);
      if (end == std::string_view::npos) refuse("an unclosed [:class:]");
      copy(end + 2 - at_);
    } else if (in_[at_] == '[') {
      refuse("a set within a set");
    } else {
      copy(1);
    }
    set_ = Set::Inside;
  }

  void escape() {
    const char what = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    if (set_ == Set::First) set_ = Set::Inside;
    // LIMIT: a negated class inside a set keeps PCRE2's meaning; only marks of rare scripts and
    // U+180E differ.
    const bool plain = set_ == Set::None;
    if (what == 's' || (what == 'S' && plain)) {
      members("\\p{Z}\\t-\\r\\x{85}", what == 'S');
      at_ += 2;
    } else if (what == 'w' || (what == 'W' && plain)) {
      // Oniguruma's table of Latin-1 counts superscripts and fractions as words; its sets do not.
      members(with_newer("L") + with_newer("M") + "\\p{Nd}\\p{Nl}\\p{Pc}" +
                  (plain ? "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}" : ""),
              what == 'W');
      at_ += 2;
    } else if (what == 'h' || (what == 'H' && plain)) {
      members("0-9A-Fa-f", what == 'H');
      at_ += 2;
    } else if (what == 'p' || what == 'P') {
      property(what == 'P');
    } else if (what == 'u') {
      out_ += fmt::format("\\x{{{}}}", in_.substr(at_ + 2, 4));
      at_ = std::min(at_ + 6, in_.size());
    } else {
      copy(std::min<size_t>(2, in_.size() - at_));
    }
  }

  void property(bool negated) {
    const size_t end = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || end == std::string_view::npos)
      refuse("a \\p without {name}");
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    if (negated && set_ != Set::None)
      out_ += fmt::format("\\P{{{}}}", name);
    else
      members(with_newer(name), negated);
    at_ = end + 1;
  }

  std::string_view in_;
  const std::string& place_;
  std::string out_;
  size_t at_ = 0;
  Set set_ = Set::None;
};

}  // namespace

std::string translate_oniguruma(std::string_view pattern, const std::string& place) {
  return Translator(pattern, place).run();
}

}  // namespace lema

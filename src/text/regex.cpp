// PCRE2 behind Regex: compiled once, just-in-time where the platform can, every match bounded.
#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/out_of_memory.h"
#include "text/regex_dialect.h"
#include "text/unicode.h"

namespace lema {
namespace {

constexpr uint32_t kMatchLimit =
    10'000'000;  // steps of one match; hostile patterns end here in well under a second
constexpr int64_t kFirstLimit = 128, kLimitGrowth = 16;  // of matches_whole
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kMaxPatternBytes = 64 * 1024;

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* x) const {
    Free(x);
  }
};
using Code = std::unique_ptr<pcre2_code, Freed<pcre2_code_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;

std::string reason(int code) {
  std::array<char, 256> text{};
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  return text.data();
}

}  // namespace

struct Regex::Program {
  std::string place;
  Code code;
  MatchContext limits;

  Program(std::string_view pattern, uint32_t options, std::string place_, bool just_in_time = true)
      : place(std::move(place_)) {
    if (pattern.size() > kMaxPatternBytes)
      fail(ErrorCode::BadInput, "{}: pattern of {} bytes, at most {} are allowed", place,
           pattern.size(), kMaxPatternBytes);
    int error = 0;
    PCRE2_SIZE offset = 0;
    options |= PCRE2_UTF;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                             &error, &offset, nullptr));
    check_memory(code || error != PCRE2_ERROR_HEAP_FAILED);
    if (!code)
      fail(ErrorCode::BadInput, "{}: bad pattern \"{}\" at byte {}: {}", place, escaped(pattern),
           offset, reason(error));
    if (just_in_time)  // without a compiler the interpreter runs
      pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
    limits.reset(pcre2_match_context_create(nullptr));
    check_memory(limits != nullptr);
    pcre2_set_match_limit(limits.get(), kMatchLimit);
    pcre2_set_heap_limit(limits.get(), kHeapLimitKib);
  }
};

Regex::Regex(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
// MULTILINE: in Oniguruma's syntax ^ and $ always mean lines.
Regex::Regex(std::string_view pattern, std::string place)
    : Regex(std::make_unique<const Program>(translate_oniguruma(pattern, place),
                                            PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                            place)) {}
Regex Regex::literal(std::string_view text, std::string place) {
  return Regex(std::make_unique<const Program>(text, PCRE2_LITERAL, std::move(place)));
}
Regex Regex::python(std::string_view pattern, std::string place) {
  // Python has no verbs, which lead a pattern in PCRE2.
  if (pattern.starts_with("(*"))
    fail(ErrorCode::BadInput, "{}: bad pattern \"{}\" at byte 1: nothing to repeat", place,
         escaped(pattern));
  return Regex(std::make_unique<const Program>(pattern, PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                                               std::move(place), false));
}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

// PCRE2 does not tell what a match took: it runs again under wider limits until it ends within one.
bool Regex::matches_whole(std::string_view text, int64_t& steps_left) const {
  const MatchData data(pcre2_match_data_create(1, nullptr));
  const MatchContext limits(pcre2_match_context_copy(program_->limits.get()));
  check_memory(data != nullptr && limits != nullptr);
  int result = PCRE2_ERROR_MATCHLIMIT;
  for (int64_t limit = 0; result == PCRE2_ERROR_MATCHLIMIT && limit < kMatchLimit;) {
    if (steps_left <= 0)
      fail(ErrorCode::BadInput, "{}: all matches together take too many steps", program_->place);
    limit = std::min(limit == 0 ? kFirstLimit : limit * kLimitGrowth, int64_t{kMatchLimit});
    steps_left -= limit;
    pcre2_set_match_limit(limits.get(), static_cast<uint32_t>(limit));
    result = pcre2_match(program_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                         text.size(), 0, PCRE2_ANCHORED | PCRE2_ENDANCHORED, data.get(),
                         limits.get());
  }
  check_memory(result != PCRE2_ERROR_NOMEMORY);
  if (result < 0 && result != PCRE2_ERROR_NOMATCH)
    fail(ErrorCode::BadInput, "{}: the pattern gave up on \"{}\": {}", program_->place,
         escaped(text), reason(result));
  return result >= 0;
}

void Regex::each_match(std::string_view text,
                       const std::function<void(size_t, size_t)>& found) const {
  const MatchData data(pcre2_match_data_create(1, nullptr));
  check_memory(data != nullptr);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t at = 0, last_end = std::string_view::npos;
  while (at <= text.size()) {
    const auto match = [&](uint32_t options) {
      return pcre2_match(program_->code.get(), subject, text.size(), at,
                         options | PCRE2_NO_UTF_CHECK, data.get(), program_->limits.get());
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
      result = match(PCRE2_NO_JIT);  // its stack is on the heap, and bounded
    if (result == PCRE2_ERROR_NOMATCH) return;
    check_memory(result != PCRE2_ERROR_NOMEMORY);
    if (result < 0)
      fail(ErrorCode::BadInput, "{}: the pattern gave up at byte {} of a text of {} bytes: {}",
           program_->place, at, text.size(), reason(result));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    const size_t begin = span[0], end = span[1];
    if (begin == end && end == last_end) {
      if (at >= text.size()) return;
      at += character_at(text, at).bytes;
      continue;
    }
    found(begin, end);
    at = last_end = end;
  }
}

}  // namespace lema

// PCRE2 behind Pattern.
#include "generate/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "core/error.h"
#include "core/out_of_memory.h"

namespace lema {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* x) const {
    Free(x);
  }
};

std::string reason(int code) {
  std::array<char, 256> text{};
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  return text.data();
}

}  // namespace

struct Pattern::Program {
  std::string place;
  std::unique_ptr<pcre2_code, Freed<pcre2_code_free>> code;
  std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>> limits;
};

Pattern::Pattern(std::string_view pattern, std::string place) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto program = std::make_unique<Program>();
  program->place = std::move(place);
  program->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                    PCRE2_UTF, &error, &offset, nullptr));
  check_memory(program->code || error != PCRE2_ERROR_HEAP_FAILED);
  if (!program->code)
    fail(ErrorCode::BadInput, "{}: bad pattern \"{}\" at byte {}: {}", program->place,
         escaped(pattern), offset, reason(error));
  program->limits.reset(pcre2_match_context_create(nullptr));
  check_memory(program->limits != nullptr);
  pcre2_set_match_limit(program->limits.get(), kMatchLimit);
  pcre2_set_heap_limit(program->limits.get(), kHeapLimitKib);
  program_ = std::move(program);
}

Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

bool Pattern::matches(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>> found(
      pcre2_match_data_create_from_pattern(program_->code.get(), nullptr));
  check_memory(found != nullptr);
  const int result = pcre2_match(program_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                 text.size(), 0, 0, found.get(), program_->limits.get());
  if (result >= 0) return true;
  if (result == PCRE2_ERROR_NOMATCH) return false;
  check_memory(result != PCRE2_ERROR_NOMEMORY);
  fail(ErrorCode::BadInput, "{}: the pattern failed on a text of {} bytes: {}", program_->place,
       text.size(), reason(result));
}

}  // namespace lema

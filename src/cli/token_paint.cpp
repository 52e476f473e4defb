// Paints stretches of equal mask; decoding goes by stretch, as a character may need several tokens.
#include "cli/token_paint.h"

#include <unistd.h>

#include <cstdlib>
#include <span>

#include "core/error.h"

namespace lema {
namespace {

bool is_control(unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; }

// C1 control characters are the two bytes C2 80 to C2 9F.
std::string harmless(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (is_control(c)) {
      out += fmt::format("\\x{:02x}", c);
    } else if (c == 0xc2 && next >= 0x80 && next < 0xa0) {
      out += fmt::format("\\x{:02x}", next);
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

bool paints_output() { return ::isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr; }

std::string paint_tokens(const std::vector<int32_t>& ids, const std::vector<uint8_t>& trained,
                         const Tokenizer& tokenizer, bool colours) {
  const std::string open = colours ? "\x1b[32m" : "\xe2\x9f\xa6",
                    close = colours ? "\x1b[0m" : "\xe2\x9f\xa7";
  std::string out;
  for (size_t begin = 0; begin < ids.size();) {
    size_t end = begin + 1;
    while (end < ids.size() && trained[end] == trained[begin]) ++end;
    const std::string text =
        harmless(tokenizer.decode(std::span(ids).subspan(begin, end - begin), false));
    out += trained[begin] ? open + text + close : text;
    begin = end;
  }
  return out;
}

}  // namespace lema

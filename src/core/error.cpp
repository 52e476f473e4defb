// Printing of untrusted names in messages.
#include "core/error.h"

#include <algorithm>

namespace lema {

std::string escaped(std::string_view name) {
  constexpr size_t kMaxPrinted = 200;
  size_t shown = std::min(name.size(), kMaxPrinted);
  while (shown < name.size() && shown > 0 &&
         (static_cast<unsigned char>(name[shown]) & 0xc0) == 0x80)
    --shown;
  std::string out;
  const std::string_view text = name.substr(0, shown);
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto byte = static_cast<unsigned char>(c);
    // C1 controls, U+0080 to U+009F, are C2 80 to C2 9F; some terminals obey them.
    const bool is_c1 = byte == 0xc2 && i + 1 < text.size() &&
                       static_cast<unsigned char>(text[i + 1]) >= 0x80 &&
                       static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (is_c1)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    else if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  if (name.size() > shown) out += "...";
  return out;
}

}  // namespace lema

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
  for (char c : name.substr(0, shown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  if (name.size() > shown) out += "...";
  return out;
}

}  // namespace lema

// Printing of untrusted names in messages.
#include "core/error.h"

namespace lema {

std::string escaped(std::string_view name) {
  constexpr size_t kMaxPrinted = 200;
  std::string out;
  for (char c : name.substr(0, kMaxPrinted)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  if (name.size() > kMaxPrinted) out += "...";
  return out;
}

}  // namespace lema

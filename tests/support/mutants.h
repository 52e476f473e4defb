// Inputs damaged as transfers, editors and attackers damage them, a fixed sequence of them:
// support/malformed.h has parsers read LEMA_MUTANTS of them for every named input, by hand.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <string_view>

namespace lema {

class Mutants {
 public:
  // The input with one to four changes.
  std::string next(std::string bytes) {
    for (size_t changes = 1 + below(4); changes > 0; --changes) change(bytes);
    return bytes;
  }
  // How many of them for each input, as LEMA_MUTANTS says.
  static int64_t wanted() {
    const char* count = std::getenv("LEMA_MUTANTS");
    return count ? std::atoll(count) : 0;
  }

 private:
  size_t below(size_t end) { return static_cast<size_t>(random_() % end); }

  // A byte that means something to some parser, or any.
  char byte() {
    static constexpr std::string_view kTelling("\0\xff\x80\x7f\"'\\{}[]:,.-+#%\n\r\t eE09ux", 28);
    return below(2) ? kTelling[below(kTelling.size())] : static_cast<char>(below(256));
  }
  std::string_view number() {
    static constexpr std::string_view kExtremes[] = {"0",
                                                     "-1",
                                                     "1e309",
                                                     "1e-400",
                                                     "4294967296",
                                                     "2147483648",
                                                     "9223372036854775807",
                                                     "9223372036854775808",
                                                     "-9223372036854775808",
                                                     "18446744073709551615"};
    return kExtremes[below(std::size(kExtremes))];
  }

  void change(std::string& bytes) {
    const size_t at = below(bytes.size() + 1), length = 1 + below(16);
    switch (below(9)) {
      case 0:
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8));
        break;
      case 1:
        if (at < bytes.size()) bytes[at] = byte();
        break;
      case 2: bytes.insert(at, 1, byte()); break;
      case 3: bytes.insert(at, std::string(length, byte())); break;
      case 4: bytes.erase(at, length); break;
      case 5: bytes.resize(at); break;
      case 6: bytes.insert(at, bytes.substr(below(bytes.size() + 1), length)); break;
      case 7: {  // a length, count or offset of 8 bytes near the ends of its range
        const uint64_t value = (uint64_t{1} << below(64)) - below(3);
        for (size_t i = 0; i < 8 && at + i < bytes.size(); ++i)
          bytes[at + i] = static_cast<char>(value >> (8 * i) & 0xff);
        break;
      }
      default: {  // the next number of the text
        const size_t from = bytes.find_first_of("0123456789", at);
        if (from == bytes.npos) break;
        const size_t to = bytes.find_first_not_of("0123456789", from);
        bytes.replace(from, (to == bytes.npos ? bytes.size() : to) - from, number());
      }
    }
  }

  std::mt19937_64 random_{1};
};

}  // namespace lema

// Named malformed inputs: each must be refused with its code and a message that says what and
// where, on one line that a terminal may show, within the time and memory that hostile input is
// given. Used by tests/malformed, one table for each parser.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/peak_memory.h"

namespace lema {

struct Malformed {
  std::string name, bytes;
  std::string part;  // of the message
};

namespace malformed {

inline double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

#ifdef LEMA_SANITIZED
inline constexpr double kMaxSeconds = 30;  // instrumented code is that much slower, and pads blocks
inline constexpr int64_t kMemoryFactor = 160, kMemoryFloor = int64_t{1} << 30;
#else
inline constexpr double kMaxSeconds = 2;
inline constexpr int64_t kMemoryFactor = 16, kMemoryFloor = int64_t{64} << 20;
#endif

inline void check_message(std::string_view message) {
  CHECK(message.size() < 1500);
  for (const char c : message)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) FAIL_CHECK("control character");
}

}  // namespace malformed

// parse(bytes) must throw Error(code) for each case; `place` is in every message. memory_floor:
// bytes that an input of any size may take.
template <typename Parse>
void expect_refused(const std::vector<Malformed>& cases, std::string_view place, Parse&& parse,
                    int64_t memory_floor = malformed::kMemoryFloor,
                    ErrorCode code = ErrorCode::BadInput) {
  for (const Malformed& c : cases) {
    const PeakMemory memory;
    const double began = malformed::cpu_seconds();
    std::string message = "accepted";
    ErrorCode found{};
    try {
      parse(c.bytes);
    } catch (const Error& error) {
      found = error.code();
      message = error.what();
    }
    const double seconds = malformed::cpu_seconds() - began;
    INFO(c.name << ": " << message.substr(0, 2000));
    CHECK(found == code);
    CHECK(contains(message, place));
    CHECK(contains(message, c.part));
    malformed::check_message(message);
    CHECK(seconds < malformed::kMaxSeconds);
    CHECK(memory.growth() <= malformed::kMemoryFactor * std::ssize(c.bytes) + memory_floor);
  }
}

inline std::string repeat(std::string_view text, int count) {
  std::string out;
  out.reserve(text.size() * static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

}  // namespace lema

// Byte counts as people write and read them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lema {

// "1.50 GiB", "512 B".
std::string format_bytes(int64_t bytes);

// "2.4 GB" (10^9), "2 GiB" (2^30), "512MB", "1048576"; nullopt when it is none of these or
// overflows int64.
std::optional<int64_t> parse_bytes(std::string_view text);

// "1:02:03", "4:05": seconds as a clock.
std::string format_duration(double seconds);

}  // namespace lema

// Parsing and printing of byte counts and durations.
#include "core/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace lema {
namespace {

struct Unit {
  std::string_view suffix;
  double bytes;
};

constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                          {"B", 1},
                                          {"KB", 1e3},
                                          {"MB", 1e6},
                                          {"GB", 1e9},
                                          {"TB", 1e12},
                                          {"KiB", 0x1p10},
                                          {"MiB", 0x1p20},
                                          {"GiB", 0x1p30},
                                          {"TiB", 0x1p40}}};

}  // namespace

std::string format_bytes(int64_t bytes) {
  const auto x = static_cast<double>(bytes);
  if (bytes < 1024) return fmt::format("{} B", bytes);
  if (bytes < (int64_t{1} << 20)) return fmt::format("{:.1f} KiB", x / 0x1p10);
  if (bytes < (int64_t{1} << 30)) return fmt::format("{:.1f} MiB", x / 0x1p20);
  return fmt::format("{:.2f} GiB", x / 0x1p30);
}

std::optional<int64_t> parse_bytes(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !(number >= 0)) return std::nullopt;
  std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!suffix.empty() && suffix.front() == ' ') suffix.remove_prefix(1);
  for (const Unit& unit : kUnits) {
    if (unit.suffix != suffix) continue;
    const double bytes = number * unit.bytes;
    if (!(bytes < 0x1p62)) return std::nullopt;
    return std::llround(bytes);
  }
  return std::nullopt;
}

std::string format_duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace lema

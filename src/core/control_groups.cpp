// Walks from the process's group to the root: the tightest limit counts.
#include "core/control_groups.h"

#include <algorithm>
#include <climits>
#include <fstream>
#include <optional>

#include "core/out_of_memory.h"

namespace lema {
namespace {

std::optional<int64_t> number_in(const std::string& path) {
  std::ifstream file = stream_of(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // absent, or "max"
}

// Pages of files that a group counts as used, and that go where memory is wanted.
int64_t cached_bytes(const std::string& folder) {
  std::ifstream stat = stream_of(folder + "/memory.stat");
  int64_t cached = 0, bytes = 0;
  for (std::string name; stat >> name >> bytes;)
    if (name == "active_file" || name == "inactive_file") cached += bytes;
  return cached;
}

template <typename Visit>
void each_group(const ControlGroups& groups, const Visit& visit) {
  std::ifstream file = stream_of(groups.process_groups);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::")) continue;
    for (std::string group = line.substr(3);; group.resize(group.rfind('/'))) {
      visit(groups.root + group);
      if (group.find('/') == std::string::npos) break;
    }
  }
}

}  // namespace

int64_t ControlGroups::memory_left() const {
  int64_t left = INT64_MAX;
  each_group(*this, [&](const std::string& folder) {
    const auto limit = number_in(folder + "/memory.max"),
               used = number_in(folder + "/memory.current");
    if (limit && used)
      left = std::min(left, std::max<int64_t>(0, *limit - *used + cached_bytes(folder)));
  });
  return left;
}

int ControlGroups::cpus() const {
  int64_t cpus = INT_MAX;
  each_group(*this, [&](const std::string& folder) {
    // "QUOTA PERIOD" in microseconds, or "max PERIOD"
    std::ifstream file = stream_of(folder + "/cpu.max");
    int64_t quota = 0, period = 0;
    if (file >> quota >> period && quota > 0 && period > 0)
      cpus = std::min(cpus, (quota - 1) / period + 1);
  });
  return static_cast<int>(cpus);
}

}  // namespace lema

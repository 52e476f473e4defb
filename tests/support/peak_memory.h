// How much a piece of code makes the process grow: for tests that hostile input stays within a
// memory limit even when it is refused in the end.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace lema {

class PeakMemory {
 public:
  // Linux forgets the peak when told so; where it may not be told, growth is only measured lower.
  PeakMemory() {
    std::ofstream("/proc/self/clear_refs") << 5;
    start_ = peak();
  }
  // Bytes of resident memory between the start and the highest point since.
  int64_t growth() const { return peak() - start_; }

 private:
  static int64_t peak() {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line) && !line.starts_with("VmHWM:")) {
    }
    return std::stoll(line.substr(line.find(':') + 1)) * 1024;
  }
  int64_t start_ = 0;
};

}  // namespace lema

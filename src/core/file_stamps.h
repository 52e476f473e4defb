// FileStamps: whether files are still what they were. For those that one part reads by path and
// another verifies or identifies by their hash at another time: the data of a run, a checkpoint.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lema {

class FileStamps {
 public:
  FileStamps() = default;
  // As they are. Io where one cannot be looked at.
  explicit FileStamps(const std::vector<std::string>& paths);
  // BadInput naming the first that is gone, was replaced or written to since.
  void check_unchanged() const;

 private:
  using Stamp = std::array<int64_t, 4>;  // device, inode, size, time of the last write in ns
  static Stamp stamp_of(const std::string& path);  // zeros where there is no file
  std::vector<std::pair<std::string, Stamp>> stamps_;
};

}  // namespace lema

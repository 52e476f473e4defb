// The retry of system calls that a signal interrupts, for core/file.cpp and core/folder.cpp.
#pragma once

#include <cerrno>

namespace lema {

// call(), again while it fails with EINTR; a hundred times at most, so that a file system that
// answers nothing else ends in an error.
template <typename Call>
auto uninterrupted(Call call) {
  for (int tries = 0;; ++tries) {
    const auto result = call();
    if (result >= 0 || errno != EINTR || tries == 100) return result;
  }
}

}  // namespace lema

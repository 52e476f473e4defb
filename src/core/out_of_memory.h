// Memory that runs out, told by name: std::bad_alloc does not know what was being done, C libraries
// answer with a null pointer. Used where long work begins and beside those libraries; main reports
// what nobody has named.
#pragma once

#include <cerrno>
#include <fstream>
#include <new>
#include <string>

#include "core/error.h"

namespace lema {

// What work() returns; where memory runs out, DoesNotFit "out of memory while WHAT".
template <typename Work>
auto or_out_of_memory(const char* what, Work&& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    fail(ErrorCode::DoesNotFit, "out of memory while {}", what);
  }
}

// bad_alloc unless the library `got` its memory.
inline void check_memory(bool got) {
  if (!got) throw std::bad_alloc();
}

// A file to read whose stream throws bad_alloc, which it would else take for a file that is missing
// or ends there.
inline std::ifstream stream_of(const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  check_memory(file.is_open() || errno != ENOMEM);
  file.exceptions(std::ios::badbit);
  return file;
}

}  // namespace lema

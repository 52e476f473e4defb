// Memory that the tests' own twins take (failing_memory.cpp), which is no part of what fails.
#pragma once

namespace lema::test {

// While one is alive no thread's requests are counted, and none fails.
class Uncounted {
 public:
  Uncounted();
  Uncounted(const Uncounted&) = delete;
  ~Uncounted();
};

}  // namespace lema::test

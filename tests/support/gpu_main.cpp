// Catch2's main for tests that need a GPU: without one they are skipped, which CTest shows.
#define CATCH_CONFIG_RUNNER
#include <cstdio>

#include "device.h"
#include "support/catch.h"

int main(int argc, char** argv) {
  if (lema::cuda_device_count() == 0) {
    std::fputs("skipped: no CUDA GPU on this machine\n", stderr);
    return 77;
  }
  return Catch::Session().run(argc, argv);
}

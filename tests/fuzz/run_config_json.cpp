// Fuzzes run configs in JSON.
#include "fuzz/run_config_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lema::fuzz;
  check_run_config(folder().file("run.json", text_of(data, size)));
  return 0;
}

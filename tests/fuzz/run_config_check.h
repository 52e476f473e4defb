// A run config that loads is printed so that it loads equal: used by the targets of both formats.
#pragma once

#include <string>

#include "formats/json.h"
#include "formats/run_config.h"
#include "fuzz/fuzz_target.h"

namespace lema::fuzz {

inline void check_run_config(const fs::path& path) {
  accepts(
      [&] {
        const Value printed = to_value(load_run_config(path.string(), {}));
        const fs::path copy = folder().file("printed.json", dump_json(printed, 2));
        const Value again = to_value(load_run_config(copy.string(), {}));
        expect(again == printed, "a config that does not read back");
      },
      {ErrorCode::Usage, ErrorCode::BadInput});
}

}  // namespace lema::fuzz

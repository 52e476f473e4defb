// Fuzzes run configs in TOML, and the TOML reader: what it accepts has an equal twin in JSON.
#include "formats/toml.h"
#include "fuzz/run_config_check.h"

using namespace lema;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  const bool is_toml = fuzz::accepts([&] {
    const Value value = parse_toml(text, "run.toml");
    const JsonLimits limits{.max_bytes = int64_t{64} << 20, .max_depth = 65};
    fuzz::expect(parse_json(dump_json(value), "twin", limits) == value, "no equal twin in JSON");
  });
  if (is_toml) fuzz::check_run_config(fuzz::folder().file("run.toml", text));
  return 0;
}

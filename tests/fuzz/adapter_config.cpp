// Fuzzes adapter_config.json: what is accepted is written so that it reads back the same.
#include "formats/json.h"
#include "formats/peft_adapter.h"
#include "fuzz/fuzz_target.h"

using namespace lema;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  fuzz::accepts([&] {
    const AdapterConfig config =
        parse_adapter_config(parse_json(text, "adapter_config.json"), "adapter_config.json");
    fuzz::expect(config.rank >= 1 && config.alpha >= 0, "a rank or alpha out of range");
    fuzz::expect(config.dropout >= 0 && config.dropout < 1, "a dropout out of range");
    for (const auto& [module, rank] : config.rank_pattern) fuzz::expect(rank >= 1, "a rank of 0");
    const Value written = adapter_config_json(config);
    const AdapterConfig again = parse_adapter_config(written, "written");
    fuzz::expect(dump_json(adapter_config_json(again)) == dump_json(written),
                 "a config that does not read back");
  });
  return 0;
}

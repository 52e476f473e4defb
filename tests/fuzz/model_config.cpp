// Fuzzes config.json: every model that is accepted has sizes that arithmetic may rely on.
#include "formats/hf_model.h"
#include "formats/json.h"
#include "fuzz/fuzz_target.h"

using namespace lema;

namespace {

void check_config(const ModelConfig& c) {
  constexpr int64_t kMost = int64_t{1} << 24;
  for (const int64_t x : {c.C, c.F, c.H, c.Hkv, c.D, c.V, c.L})
    fuzz::expect(x >= 1 && x <= kMost, "a size out of range");
  fuzz::expect(c.H % c.Hkv == 0, "query heads that do not divide");
  fuzz::expect(c.max_positions >= 1 && c.max_positions <= int64_t{1} << 31, "positions");
  fuzz::expect(c.norm_eps >= 0 && c.norm_eps <= 1, "an epsilon out of range");
  fuzz::expect(std::ssize(c.windows) == c.L, "windows unlike the blocks");
  for (const int64_t window : c.windows) fuzz::expect(window >= 0, "a negative window");
  for (const int64_t id : c.eos_ids)
    fuzz::expect(id >= 0 && id < c.V, "an id beyond the vocabulary");
  fuzz::expect(c.rope.kind == RopeConfig::Kind::None || (c.rope.dim >= 1 && c.rope.dim <= c.D),
               "rotated columns beyond the head");
  fuzz::expect(c.rope.theta > 0 && c.rope.factor > 0, "RoPE numbers that are not positive");
  fuzz::expect(c.rope.attention_factor >= 0 && c.rope.attention_factor <= 1e15,
               "an attention factor out of range");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  fuzz::accepts([&] {
    const Value json = parse_json(text, "config.json");
    // What is printed reads back equal, so that a converted folder says what its source said.
    fuzz::expect(parse_json(dump_json(json), "again") == json, "JSON that does not read back");
    const ModelConfig config = parse_model_config(json, "config.json");
    check_config(config);
    const ModelConfig again = parse_model_config(json, "config.json");
    fuzz::expect(again.D == config.D && again.windows == config.windows, "two different readings");
  });
  return 0;
}

// Fuzzes tokenizer.json: loading, and encoding and decoding with what loads. A text to encode may
// follow the JSON after a NUL.
#include "formats/json.h"
#include "fuzz/tokenizer_check.h"

using namespace lema;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input = fuzz::text_of(data, size);
  const size_t nul = std::min(input.find('\0'), input.size());
  const std::string_view text = nul < input.size() ? input.substr(nul + 1) : fuzz::kSampleText;
  fuzz::accepts([&] {
    const Value json = parse_json(input.substr(0, nul), "tokenizer.json", kTokenizerJsonLimits);
    const Tokenizer tokenizer = Tokenizer::from_json(json, nullptr);
    fuzz::check_tokenizer(tokenizer, text);
  });
  return 0;
}

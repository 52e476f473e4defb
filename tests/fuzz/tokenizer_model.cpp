// Fuzzes tokenizer.model, SentencePiece's protobuf and tiktoken's ranks, through the tokenizer made
// of it. The first byte picks where a text gets its prefix.
#include "formats/sentencepiece_model.h"
#include "formats/tiktoken.h"
#include "fuzz/tokenizer_check.h"

using namespace lema;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  constexpr std::string_view kPrefixes[] = {"always", "first", "never"};
  const std::string_view bytes = fuzz::text_of(data, size).substr(1);
  fuzz::accepts([&] {
    const Value json =
        looks_like_tiktoken(bytes)
            ? read_tiktoken(bytes, "tokenizer.model").json
            : sentencepiece_tokenizer_json(read_sentencepiece(bytes, "tokenizer.model"),
                                           kPrefixes[data[0] % 3]);
    fuzz::check_tokenizer(Tokenizer::from_json(json, nullptr), fuzz::kSampleText);
  });
  return 0;
}

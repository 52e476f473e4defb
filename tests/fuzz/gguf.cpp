// Fuzzes GGUF files: the container, and the model, tokenizer and template made of one.
#include "formats/gguf.h"

#include "formats/gguf_import.h"
#include "formats/hf_model.h"
#include "fuzz/fuzz_target.h"
#include "text/tokenizer.h"

using namespace lema;

namespace {

constexpr int64_t kMostRead = 1 << 16;  // values

void check_container(const GgufFile& file, int64_t file_bytes) {
  for (const GgufTensor& t : file.tensors()) {
    fuzz::expect(t.offset >= 0 && t.bytes >= 0 && t.offset <= file_bytes - t.bytes,
                 "a tensor beyond the file");
    fuzz::expect(t.bytes == t.shape.elements() / t.type.values * t.type.bytes,
                 "a size unlike its shape");
    fuzz::expect(file.find(t.name) == &t, "a tensor that is not found by its name");
    if (!can_dequantise(t.type) || t.shape.elements() > kMostRead) continue;
    std::vector<float> values(static_cast<size_t>(t.shape.elements()));
    file.read(t, 0, t.shape.elements(), values.data());
  }
}

void check_import(const GgufFile& file) {
  const GgufModel model = import_gguf(file);
  parse_model_config(model.config_json, "config.json");
  const Tokenizer tokenizer = Tokenizer::from_json(model.tokenizer_json, &model.tokenizer_config);
  fuzz::expect(tokenizer.vocab_size() >= 1, "an empty vocabulary");
  tokenizer.decode(tokenizer.encode("hello w\xc3\xb6rld", true).ids, false);
  for (const GgufTensorMap& t : model.tensors) {
    const int64_t row = t.shape.elements() / t.shape[0];
    std::vector<float> values(static_cast<size_t>(row));
    if (row <= kMostRead) read_tensor_rows(file, t, t.shape[0] - 1, t.shape[0], values.data());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fs::path path = fuzz::folder().file("m.gguf", fuzz::text_of(data, size));
  fuzz::accepts([&] {
    const GgufFile file(path);
    check_container(file, static_cast<int64_t>(size));
    fuzz::accepts([&] { check_import(file); });
  });
  return 0;
}

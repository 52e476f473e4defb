// Malformed GGUF by the classes of recorded faults of GGUF readers, in process, so that sanitizers
// see them; tests/cli/gguf_malformed_test.py has some 300 files through the binary.
#include "formats/gguf.h"

#include "formats/gguf_import.h"
#include "support/gguf_builder.h"
#include "support/malformed.h"
#include "support/temp_folder.h"

using namespace lema;
using B = GgufBuilder;

namespace {

void expect(const std::vector<Malformed>& cases) {
  const TempFolder folder("malformed_gguf");
  expect_refused(cases, "m.gguf", [&](const std::string& bytes) {
    const GgufFile file(folder.file("m.gguf", bytes));
    import_gguf(file);
  });
}

std::string array(uint32_t kind, uint64_t count, std::string_view values = "") {
  return B::raw(kind) + B::raw(count) + std::string(values);
}
std::string padded(const B& builder) { return builder.bytes() + std::string(256, '\0'); }

constexpr uint64_t kWraps[] = {
    uint64_t{1} << 32,       uint64_t{1} << 60, uint64_t{1} << 61, uint64_t{1} << 62,
    (uint64_t{1} << 63) - 1, uint64_t{1} << 63, ~uint64_t{0} - 32, ~uint64_t{0}};

}  // namespace

TEST_CASE("counts and lengths that wrap") {
  std::vector<Malformed> cases;
  for (const uint64_t n : kWraps) {
    // CVE-2024-21825, CVE-2024-23496, CVE-2024-21836, CVE-2024-23605: count times size, length + 1.
    B keys, tensors;
    keys.key_count = n;
    tensors.tensor_count = n;
    cases.push_back({fmt::format("{} keys", n), padded(keys), "key count"});
    cases.push_back({fmt::format("{} tensors", n), padded(tensors), "tensors, at most"});
    cases.push_back({fmt::format("a string of {}", n), padded(B().key("k", B::String, B::raw(n))),
                     "a string value"});
    cases.push_back({fmt::format("an array of {} bytes", n),
                     padded(B().key("k", B::Array, array(B::U8, n))), "array length of k"});
    cases.push_back({fmt::format("an array of {} strings", n),
                     padded(B().key("k", B::Array, array(B::String, n))), "array length of k"});
    cases.push_back({fmt::format("an array of {} doubles", n),
                     padded(B().key("k", B::Array, array(B::F64, n))), "array length of k"});
    // CVE-2026-33298, CVE-2025-53630, CVE-2026-27940: sizes of tensors, their sums and padding.
    cases.push_back({fmt::format("a dimension of {}", n), padded(B().entry("t", {n}, 0, 0)),
                     n >> 63 ? "dimension" : "tensor t"});
    cases.push_back({fmt::format("dimensions of {} and 4", n), padded(B().entry("t", {n, 4}, 0, 0)),
                     n >> 63 ? "dimension" : "tensor t"});
    // CVE-2026-7482: a tensor's range beyond the file.
    cases.push_back({fmt::format("an offset of {}", n), padded(B().entry("t", {2}, 0, n / 32 * 32)),
                     n >> 63 ? "offset" : "end beyond the file"});
  }
  expect(cases);
}

TEST_CASE("files that end early, at every byte") {
  const std::string good = B().u32("k", 1)
                               .string("s", "text")
                               .ints("l", {1, 2})
                               .floats("t", {8}, std::vector<float>(8, 1.0f))
                               .bytes();
  std::vector<Malformed> cases;
  for (size_t length = 0; length < good.size(); ++length)
    cases.push_back({fmt::format("{} bytes", length), good.substr(0, length), ""});
  expect(cases);
  // A count that the file cannot hold, though memory could.
  expect(
      {{"1,000 elements in 300 bytes", padded(B().key("k", B::Array, array(B::U8, 1000))),
        "array length of k is 1000"},
       {"a string of 1,000 in 300 bytes", padded(B().key("k", B::String, B::raw(uint64_t{1000}))),
        "a string value of 1000 bytes"}});
}

TEST_CASE("kinds and counts that a reader trusts") {
  std::vector<Malformed> cases;
  // CVE-2024-21802: the number of dimensions.
  for (const size_t rank : {size_t{0}, size_t{5}, size_t{9}, size_t{64}})
    cases.push_back({fmt::format("{} dimensions", rank),
                     padded(B().entry("t", std::vector<uint64_t>(rank, 1), 0, 0)),
                     "dimensions, expected 1 to 4"});
  // Element types: a zero-width one would loop, an array would recurse.
  for (const uint32_t kind : {13u, 14u, 255u, 0x80000000u, 0xffffffffu}) {
    cases.push_back(
        {fmt::format("the kind {}", kind), padded(B().key("k", kind, "")), "value type"});
    cases.push_back({fmt::format("elements of kind {}", kind),
                     padded(B().key("k", B::Array, array(kind, 1))), "value type"});
  }
  cases.push_back({"arrays of arrays, 1,000 deep",
                   padded(B().key("k", B::Array, repeat(array(B::Array, 1), 1000))),
                   "arrays of arrays"});
  for (const uint32_t kind : {4u, 5u, 36u, 99u, 0xffffffffu})
    cases.push_back(
        {fmt::format("the tensor type {}", kind), padded(B().entry("t", {256}, kind, 0)), "type"});
  // general.alignment of 0, no power of two, huge, signed or text: padding divides by it.
  for (const uint32_t bytes : {0u, 3u, 31u, 33u, 1u << 21, 1u << 31, 0xffffffffu})
    cases.push_back({fmt::format("an alignment of {}", bytes),
                     padded(B().u32("general.alignment", bytes)), "general.alignment"});
  cases.push_back(
      {"an alignment as text", padded(B().string("general.alignment", "32")), "general.alignment"});
  cases.push_back({"a signed alignment",
                   padded(B().key("general.alignment", B::I64, B::raw(int64_t{-32}))),
                   "general.alignment"});
  // CVE-2025-49847: a token longer than its length's type; CVE-2025-52566: signs.
  cases.push_back(
      {"a name of 2^31", padded(B().entry(std::string(70, 't'), {1}, 0, 0)), "tensor name"});
  cases.push_back(
      {"a string that is no UTF-8", padded(B().string("k", "\xf8\x88\x80\x80\x80")), "UTF-8"});
  cases.push_back(
      {"a NUL in a key",
       padded(B().u32(std::string_view("k\0k", 3), 1).u32(std::string_view("k\0k", 3), 1)),
       "k\\x00k"});
  for (const uint8_t value : {uint8_t{2}, uint8_t{255}})
    cases.push_back({fmt::format("the boolean {}", value),
                     padded(B().key("k", B::Bool, B::raw(value))), "neither 0 nor 1"});
  cases.push_back({"NaN", padded(B().f32("k", __builtin_nanf(""))), "key k"});
  cases.push_back({"infinity", padded(B().f32("k", __builtin_inff())), "key k"});
  expect(cases);
}

TEST_CASE("models whose metadata another reader would believe") {
  // CVE-2024-32878, CVE-2024-41130: what is missing is refused, not read as zero.
  const auto sized = [] {
    return B()
        .string("general.architecture", "llama")
        .u32("llama.embedding_length", 8)
        .u32("llama.feed_forward_length", 8)
        .u32("llama.block_count", 1)
        .u32("llama.attention.head_count", 2)
        .u32("llama.context_length", 64)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  };
  std::vector<Malformed> cases = {
      {"no keys", padded(B()), "general.architecture"},
      {"a negative architecture",
       padded(B().key("general.architecture", B::I32, B::raw(int32_t{-1}))),
       "general.architecture"},
      {"a terminal escape as architecture", padded(B().string("general.architecture", "\x1b[2J")),
       "\\x1b[2J"},
      {"no tensors", padded(sized()), "token_embd.weight"},
  };
  for (const uint32_t n : {0u, 0x7fffffffu, 0xffffffffu})
    for (const char* name :
         {"llama.embedding_length", "llama.block_count", "llama.attention.head_count"}) {
      B b;
      b.string("general.architecture", "llama");
      for (const char* key :
           {"llama.embedding_length", "llama.feed_forward_length", "llama.block_count",
            "llama.attention.head_count", "llama.context_length"})
        b.u32(key, key == std::string_view(name) ? n : 8);
      b.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
      b.floats("token_embd.weight", {8, 2}, std::vector<float>(16, 0.5f));
      cases.push_back({fmt::format("{} {}", name, n), padded(b), n == 0x7fffffffu ? "" : name});
    }
  expect(cases);
}

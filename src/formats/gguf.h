// GGUF files, versions 2 and 3: metadata, the index of tensors, and dequantisation to f32.
// gguf_import turns one into what a Hugging Face folder holds; inspect lists it.
//
//   file   = "GGUF", u32 version, u64 tensor_count, u64 kv_count, kv*, tensor*, padding, data
//   kv     = string key, u32 type, value
//   string = u64 length, UTF-8 bytes;  array = u32 type, u64 count, values
//   tensor = string name, u32 n_dims, u64 dims (innermost first), u32 type, u64 offset in the data
//   data   starts at, and every offset is, a multiple of general.alignment (32 when absent)
//
// All numbers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/file.h"
#include "core/tensor.h"
#include "core/value.h"

namespace lema {

// How a ggml type stores values: blocks of `values` values in `bytes` bytes.
struct GgmlType {
  uint32_t id;
  std::string_view name;  // "Q4_1"
  int64_t values, bytes;
};

// F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, and the K-quants Q2_K to Q6_K.
bool can_dequantise(const GgmlType& type);
std::string_view dequantisable_types();

// Blocks of `type` at `in` to f32, the bits of the `gguf` package's dequantize.
// out (blocks * type.values). Internal error for a type that can_dequantise refuses.
void dequantise(const GgmlType& type, const std::byte* in, int64_t blocks, float* out);

struct GgufTensor {
  std::string name;
  Shape shape;  // outermost first, as Hugging Face writes it: the file's dims reversed
  GgmlType type{};
  int64_t offset = 0;  // from the start of the file
  int64_t bytes = 0;
};

// An open file whose header passed every check before anything was allocated by its word.
class GgufFile {
 public:
  // BadInput "PATH: reason" for all that is malformed; names are printed escaped.
  explicit GgufFile(const fs::path& path);

  const fs::path& path() const { return file_.path(); }
  uint32_t version() const { return version_; }
  // The key-values as one object. An f32 becomes the double that its shortest decimal names, so
  // 1e-5 stays 1e-5.
  const Value& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in file order
  const GgufTensor* find(const std::string& name) const;               // nullptr when absent
  // "PATH: tensor NAME", for messages.
  std::string place(const GgufTensor& tensor) const;

  // Dequantises `count` values from the flat index `first`; both multiples of the type's block.
  // out (count). BadInput, naming the type, when it cannot be dequantised. Threads: concurrent.
  void read(const GgufTensor& tensor, int64_t first, int64_t count, float* out) const;

 private:
  File file_;
  uint32_t version_ = 0;
  Value metadata_{Value::Object{}};
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
};

}  // namespace lema

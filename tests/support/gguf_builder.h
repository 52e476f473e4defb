// Builds GGUF files byte by byte, right or wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace lema {

class GgufBuilder {
 public:
  enum Kind : uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };

  template <typename T>
  static std::string raw(T x) {
    std::string bytes(sizeof x, '\0');
    std::memcpy(bytes.data(), &x, sizeof x);
    return bytes;
  }
  static std::string text(std::string_view s) { return raw(uint64_t{s.size()}) + std::string(s); }

  // A key-value whose value bytes are given.
  GgufBuilder& key(std::string_view name, uint32_t kind, const std::string& value) {
    keys_ += text(name) + raw(kind) + value;
    ++key_count;
    return *this;
  }
  GgufBuilder& u32(std::string_view name, uint32_t x) { return key(name, U32, raw(x)); }
  GgufBuilder& f32(std::string_view name, float x) { return key(name, F32, raw(x)); }
  GgufBuilder& boolean(std::string_view name, bool x) { return key(name, Bool, raw(uint8_t{x})); }
  GgufBuilder& string(std::string_view name, std::string_view x) {
    return key(name, String, text(x));
  }
  GgufBuilder& strings(std::string_view name, const std::vector<std::string>& list) {
    std::string value = raw(uint32_t{String}) + raw(uint64_t{list.size()});
    for (const std::string& s : list) value += text(s);
    return key(name, Array, value);
  }
  GgufBuilder& ints(std::string_view name, const std::vector<int32_t>& list) {
    std::string value = raw(uint32_t{I32}) + raw(uint64_t{list.size()});
    for (int32_t x : list) value += raw(x);
    return key(name, Array, value);
  }

  // A tensor entry, dims innermost first, with its data appended at the next multiple of 32.
  GgufBuilder& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      const std::string& data) {
    entry(name, dims, type, data_.size());
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
    return *this;
  }
  GgufBuilder& floats(std::string_view name, const std::vector<uint64_t>& dims,
                      const std::vector<float>& values) {
    std::string data;
    for (float x : values) data += raw(x);
    return tensor(name, dims, 0, data);
  }
  // An entry alone, with any offset.
  GgufBuilder& entry(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                     uint64_t offset) {
    entries_ += text(name) + raw(static_cast<uint32_t>(dims.size()));
    for (uint64_t d : dims) entries_ += raw(d);
    entries_ += raw(type) + raw(offset);
    ++tensor_count;
    return *this;
  }

  std::string bytes() const {
    std::string out = "GGUF" + raw(version) + raw(tensor_count) + raw(key_count) + keys_ + entries_;
    if (!data_.empty()) out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

  uint32_t version = 3;
  uint64_t tensor_count = 0, key_count = 0;

 private:
  std::string keys_, entries_, data_;
};

}  // namespace lema

// The GGUF header: a bounded reader over the file, every count held against the bytes that are
// left, every sum and product of sizes checked. Nothing is reserved by a count of the file's.
#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/checked.h"
#include "core/error.h"
#include "core/utf8.h"

namespace lema {
namespace {

constexpr int64_t kMaxNameBytes = 64;
constexpr int64_t kMaxKeyBytes = 65535;
constexpr int64_t kMaxStringBytes = int64_t{64} << 20;
// Over all arrays of a file: those of the largest vocabularies hold below 3 M.
constexpr int64_t kMaxArrayElements = int64_t{8} << 20;
constexpr int64_t kMaxAlignment = int64_t{1} << 20;
constexpr int kMaxDims = 4;
constexpr int64_t kReadBytes = int64_t{1} << 20;
// The shortest key-value (empty key, one byte) and the shortest tensor entry (empty name, one
// dimension).
constexpr int64_t kMinKeyValueBytes = 8 + 4 + 1;
constexpr int64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;

constexpr std::array<GgmlType, 34> kTypes = {{
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 40},      {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},
    {41, "Q1_0", 128, 18},
}};

// Type ids of metadata values.
enum class Kind : uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };
constexpr std::array<int64_t, 13> kMinValueBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

// Reads the header forward through a buffer; nothing past the end of the file is ever asked for.
class Reader {
 public:
  explicit Reader(const File& file) : file_(file), size_(file.size()) {}

  int64_t position() const { return position_; }
  int64_t remaining() const { return size_ - position_; }

  [[noreturn]] void malformed(const std::string& reason) const {
    fail(ErrorCode::BadInput, "{}: byte {}: {}", file_.path().string(), position_, reason);
  }

  template <typename T>
  T number(std::string_view what) {
    T x;
    take(&x, sizeof x, what);
    return x;
  }

  // A u64 that must be at most `most`; `most` and so the result fit int64.
  int64_t count(std::string_view what, int64_t most) {
    const auto n = number<uint64_t>(what);
    if (n > static_cast<uint64_t>(most))
      malformed(fmt::format("{} is {}, at most {} can follow", what, n, most));
    return static_cast<int64_t>(n);
  }

  std::string string(std::string_view what, int64_t most) {
    const int64_t length = count(fmt::format("length of {}", what), most);
    if (length > remaining())
      malformed(fmt::format("{} of {} bytes, {} are left", what, length, remaining()));
    std::string text(static_cast<size_t>(length), '\0');
    take(text.data(), length, what);
    if (!is_valid_utf8(text)) malformed(fmt::format("{} is not UTF-8", what));
    return text;
  }

 private:
  void take(void* out, int64_t bytes, std::string_view what) {
    if (bytes > remaining()) malformed(fmt::format("the file ends within {}", what));
    auto* to = static_cast<char*>(out);
    while (bytes > 0) {
      if (at_ == std::ssize(buffer_)) {
        buffer_.resize(static_cast<size_t>(std::min(kReadBytes, remaining())));
        file_.read_at(buffer_.data(), std::ssize(buffer_), position_);
        at_ = 0;
      }
      const int64_t n = std::min(bytes, std::ssize(buffer_) - at_);
      std::memcpy(to, buffer_.data() + at_, static_cast<size_t>(n));
      to += n;
      at_ += n;
      position_ += n;
      bytes -= n;
    }
  }

  const File& file_;
  int64_t size_, position_ = 0;
  std::vector<char> buffer_;
  int64_t at_ = 0;
};

Value shortest_decimal(float x) {
  std::array<char, 64> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), x).ptr;
  double value = 0;
  std::from_chars(text.data(), end, value);
  return Value(value);
}

// One metadata value. `elements` counts down what all arrays of the file may still hold.
class ValueReader {
 public:
  explicit ValueReader(Reader& reader) : reader_(reader) {}

  Value read(const std::string& key) {
    const auto kind = read_kind(key);
    if (kind == Kind::Array) return array(key);
    Value value = scalar(kind, key);
    if (value.is_number() && !std::isfinite(value.as_number()))
      reader_.malformed(fmt::format("key {}: found {}, expected a finite number", escaped(key),
                                    value.as_number()));
    return value;
  }

 private:
  Kind read_kind(const std::string& key) {
    const auto id = reader_.number<uint32_t>("a value type");
    if (id >= kMinValueBytes.size())
      reader_.malformed(fmt::format("key {}: value type {} is unknown", escaped(key), id));
    return static_cast<Kind>(id);
  }

  Value array(const std::string& key) {
    const Kind kind = read_kind(key);
    if (kind == Kind::Array)
      reader_.malformed(fmt::format("key {}: arrays of arrays are not supported", escaped(key)));
    const int64_t fit = (reader_.remaining() - 8) / kMinValueBytes[static_cast<size_t>(kind)];
    const int64_t count =
        reader_.count(fmt::format("array length of {}", escaped(key)), std::max<int64_t>(fit, 0));
    if (count > elements_)
      reader_.malformed(fmt::format("key {}: more than {} array elements in all", escaped(key),
                                    kMaxArrayElements));
    elements_ -= count;
    Value::Array values;
    for (int64_t i = 0; i < count; ++i) values.push_back(scalar(kind, key));
    return values;
  }

  Value scalar(Kind kind, const std::string& key) {
    switch (kind) {
      case Kind::U8:
        return integer<uint8_t>();
      case Kind::I8:
        return integer<int8_t>();
      case Kind::U16:
        return integer<uint16_t>();
      case Kind::I16:
        return integer<int16_t>();
      case Kind::U32:
        return integer<uint32_t>();
      case Kind::I32:
        return integer<int32_t>();
      case Kind::I64:
        return integer<int64_t>();
      case Kind::U64:
        return Value(reader_.count(fmt::format("key {}", escaped(key)),
                                   std::numeric_limits<int64_t>::max()));
      case Kind::F32:
        return shortest_decimal(reader_.number<float>("a value"));
      case Kind::F64:
        return Value(reader_.number<double>("a value"));
      case Kind::String:
        return Value(reader_.string("a string value", kMaxStringBytes));
      case Kind::Bool: {
        const auto x = reader_.number<uint8_t>("a value");
        if (x > 1)
          reader_.malformed(fmt::format("key {}: boolean {} is neither 0 nor 1", escaped(key), x));
        return Value(x == 1);
      }
      case Kind::Array:
        break;
    }
    fail(ErrorCode::Internal, "GGUF value kind {}", static_cast<uint32_t>(kind));
  }

  template <typename T>
  Value integer() {
    return Value(static_cast<int64_t>(reader_.number<T>("a value")));
  }

  Reader& reader_;
  int64_t elements_ = kMaxArrayElements;
};

// The version, after refusing what is not a little-endian GGUF of version 2 or 3.
uint32_t read_version(Reader& reader, const std::string& path) {
  if (reader.remaining() < 24)
    fail(ErrorCode::BadInput, "{}: {} bytes, too short for a GGUF file", path, reader.remaining());
  std::array<char, 4> magic{};
  for (char& c : magic) c = reader.number<char>("the magic");
  const std::string_view found(magic.data(), magic.size());
  if (found != "GGUF")
    fail(ErrorCode::BadInput, "{}: starts with \"{}\", not a GGUF file{}", path, escaped(found),
         found == "vers" ? " (a git-lfs pointer: fetch the file itself)" : "");
  const auto version = reader.number<uint32_t>("the version");
  if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3))
    fail(ErrorCode::BadInput, "{}: big-endian GGUF is not supported", path);
  if (version != 2 && version != 3)
    fail(ErrorCode::BadInput, "{}: GGUF version {} is not supported; supported: 2, 3", path,
         version);
  return version;
}

int64_t alignment(const Value& metadata, const std::string& path) {
  const Value* value = metadata.find("general.alignment");
  if (!value) return 32;
  const int64_t bytes = value->is_int() ? value->as_int() : 0;
  if (bytes < 1 || bytes > kMaxAlignment || !std::has_single_bit(static_cast<uint64_t>(bytes)))
    fail(ErrorCode::BadInput, "{}: general.alignment is not a power of two up to {}", path,
         kMaxAlignment);
  return bytes;
}

// One entry of the tensor table; `offset` is still relative to the data's start.
GgufTensor read_tensor(Reader& reader) {
  GgufTensor tensor;
  tensor.name = reader.string("a tensor name", kMaxNameBytes);
  const std::string shown = escaped(tensor.name);
  const auto rank = reader.number<uint32_t>("a dimension count");
  if (rank < 1 || rank > kMaxDims)
    reader.malformed(
        fmt::format("tensor {}: {} dimensions, expected 1 to {}", shown, rank, kMaxDims));
  std::array<int64_t, kMaxDims> dims{};
  std::optional<int64_t> values = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    dims[i] = reader.count("a dimension", std::numeric_limits<int64_t>::max());
    if (dims[i] < 1) reader.malformed(fmt::format("tensor {}: dimension 0", shown));
    values = checked_multiply(values, dims[i]);
    if (!values) reader.malformed(fmt::format("tensor {}: the number of values overflows", shown));
  }
  for (uint32_t i = rank; i-- > 0;) tensor.shape.push_back(dims[i]);

  const auto id = reader.number<uint32_t>("a tensor type");
  const auto type =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const GgmlType& t) { return t.id == id; });
  if (type == kTypes.end())
    reader.malformed(fmt::format("tensor {}: type {} is unknown", shown, id));
  tensor.type = *type;
  if (dims[0] % type->values != 0)
    reader.malformed(fmt::format("tensor {}: rows of {} values are not whole {} blocks of {}",
                                 shown, dims[0], type->name, type->values));
  const auto bytes = checked_multiply(*values / type->values, type->bytes);
  if (!bytes) reader.malformed(fmt::format("tensor {}: the number of bytes overflows", shown));
  tensor.bytes = *bytes;
  tensor.offset =
      reader.count(fmt::format("offset of tensor {}", shown), std::numeric_limits<int64_t>::max());
  return tensor;
}

// Makes the offsets absolute and checks that each tensor lies aligned, inside the file and apart
// from the others.
void place_tensors(std::vector<GgufTensor>& tensors, int64_t header_end, int64_t align,
                   int64_t file_bytes, const std::string& path) {
  const auto padded = checked_add(header_end, align - 1);
  const int64_t data = padded.value_or(0) / align * align;
  std::vector<const GgufTensor*> order;
  for (GgufTensor& tensor : tensors) {
    const std::string place = fmt::format("{}: tensor {}", path, escaped(tensor.name));
    if (tensor.offset % align != 0)
      fail(ErrorCode::BadInput, "{}: offset {} is not a multiple of {}", place, tensor.offset,
           align);
    const auto begin = checked_add(data, tensor.offset);
    const auto end = checked_add(begin, tensor.bytes);
    if (!end || *end > file_bytes)
      fail(ErrorCode::BadInput, "{}: {} bytes at offset {} end beyond the file of {} bytes", place,
           tensor.bytes, tensor.offset, file_bytes);
    tensor.offset = *begin;
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i]->offset < order[i - 1]->offset + order[i - 1]->bytes)
      fail(ErrorCode::BadInput, "{}: tensors {} and {} overlap", path, escaped(order[i - 1]->name),
           escaped(order[i]->name));
}

}  // namespace

GgufFile::GgufFile(const fs::path& path) : file_(File::open(path)) {
  Reader reader(file_);
  version_ = read_version(reader, path.string());
  const auto tensor_count = reader.number<uint64_t>("the tensor count");
  const int64_t kv_count = reader.count("the key count", reader.remaining() / kMinKeyValueBytes);
  ValueReader values(reader);
  std::unordered_map<std::string, bool> seen;
  Value::Object members;
  for (int64_t i = 0; i < kv_count; ++i) {
    std::string key = reader.string("a key", kMaxKeyBytes);
    if (!seen.emplace(key, true).second)
      reader.malformed(fmt::format("duplicate key {}", escaped(key)));
    Value value = values.read(key);
    members.emplace_back(std::move(key), std::move(value));
  }
  metadata_ = Value(std::move(members));

  const int64_t most = reader.remaining() / kMinTensorBytes;
  if (tensor_count > static_cast<uint64_t>(most))
    reader.malformed(fmt::format("{} tensors, at most {} can follow", tensor_count, most));
  for (uint64_t i = 0; i < tensor_count; ++i) {
    tensors_.push_back(read_tensor(reader));
    if (!by_name_.emplace(tensors_.back().name, tensors_.size() - 1).second)
      reader.malformed(fmt::format("duplicate tensor {}", escaped(tensors_.back().name)));
  }
  place_tensors(tensors_, reader.position(), alignment(metadata_, path.string()), file_.size(),
                path.string());
}

const GgufTensor* GgufFile::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

std::string GgufFile::place(const GgufTensor& tensor) const {
  return fmt::format("{}: tensor {}", path().string(), escaped(tensor.name));
}

void GgufFile::read(const GgufTensor& tensor, int64_t first, int64_t count, float* out) const {
  const GgmlType& type = tensor.type;
  if (!can_dequantise(type))
    fail(ErrorCode::BadInput, "{} is {}; supported: {}", place(tensor), type.name,
         dequantisable_types());
  check(first >= 0 && count >= 0 && first <= tensor.shape.elements() - count &&
            first % type.values == 0 && count % type.values == 0,
        "{}: read of {} values from {}", place(tensor), count, first);
  int64_t block = first / type.values;
  const int64_t end = block + count / type.values;
  const int64_t chunk = std::max<int64_t>(kReadBytes / type.bytes, 1);
  std::vector<std::byte> raw(static_cast<size_t>(std::min(chunk, end - block) * type.bytes));
  while (block < end) {
    const int64_t n = std::min(chunk, end - block);
    file_.read_at(raw.data(), n * type.bytes, tensor.offset + block * type.bytes);
    dequantise(type, raw.data(), n, out);
    out += n * type.values;
    block += n;
  }
}

}  // namespace lema

// Reading and writing of safetensors headers. The reader trusts no number before it is checked
// against the file's size; ModelFolder, adapters, checkpoints and convert build on it.
#include "formats/safetensors.h"

#include <algorithm>
#include <optional>
#include <unordered_set>

#include "core/checked.h"
#include "core/error.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;  // as the reference reader
constexpr int64_t kMaxTensors = 1'000'000;
constexpr size_t kMaxNameBytes = 1024;
constexpr std::string_view kMetadataKey = "__metadata__";

// nullopt on overflow or when the tensor is not a whole number of bytes.
std::optional<int64_t> tensor_bytes(DType dtype, const Shape& shape) {
  std::optional<int64_t> total = 1;
  for (int i = 0; i < shape.rank(); ++i) total = checked_multiply(total, shape[i]);
  total = checked_multiply(total, bits(dtype));
  if (!total || *total % 8 != 0) return std::nullopt;
  return *total / 8;
}

// What people find in place of weights, by its first bytes. None of these prefixes is a header
// length in range.
std::string_view impostor(std::string start) {
  start.erase(0, start.find_first_not_of(" \t\r\n"));
  for (char& c : start)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  if (start.starts_with("version https://git-lfs"))
    return "a git-LFS pointer; `git lfs pull` fetches the weights";
  if (start.starts_with("<!doctype html") || start.starts_with("<html"))
    return "an HTML page; the download was redirected or refused";
  if (start.starts_with("gguf")) return "a GGUF file";
  return "";
}

// The header's text. Only lengths that lie within the file are believed.
std::string read_header(const File& file) {
  const std::string path = file.path().string();
  const int64_t size = file.size();
  std::string start(static_cast<size_t>(std::min<int64_t>(size, 64)), '\0');
  file.read_at(start.data(), static_cast<int64_t>(start.size()), 0);
  if (const std::string_view what = impostor(start); !what.empty())
    fail(ErrorCode::BadInput, "{}: not a safetensors file but {}", path, what);
  if (size < kLengthBytes)
    fail(ErrorCode::BadInput, "{}: {} bytes; a safetensors file has at least {}", path, size,
         kLengthBytes);
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(start[i]);
  if (length > kMaxHeaderBytes)
    fail(ErrorCode::BadInput, "{}: header of {} bytes, at most {} are allowed", path, length,
         kMaxHeaderBytes);
  const auto header_bytes = static_cast<int64_t>(length);
  if (header_bytes > size - kLengthBytes)
    fail(ErrorCode::BadInput, "{}: header of {} bytes, but only {} follow its length", path,
         header_bytes, size - kLengthBytes);
  std::string header(static_cast<size_t>(header_bytes), '\0');
  file.read_at(header.data(), header_bytes, kLengthBytes);
  return header;
}

Metadata parse_metadata(const Value& value, const std::string& path) {
  if (!value.is_object())
    fail(ErrorCode::BadInput, "{}: __metadata__: found {}, expected object", path,
         name(value.kind()));
  Metadata metadata;
  for (const auto& [key, text] : value.as_object()) {
    if (!text.is_string())
      fail(ErrorCode::BadInput, "{}: __metadata__ \"{}\": found {}, expected string", path,
           escaped(key), name(text.kind()));
    metadata.emplace_back(key, text.as_string());
  }
  return metadata;
}

// One member of the header, its numbers read but not yet compared. Offsets still count from the
// data start.
class EntryParser {
 public:
  EntryParser(const std::string& path, const std::string& tensor, const Value& value)
      : path_(path), tensor_(tensor), value_(value) {}

  TensorEntry parse() const {
    if (tensor_.size() > kMaxNameBytes)
      refuse(
          fmt::format("name of {} bytes, at most {} are accepted", tensor_.size(), kMaxNameBytes));
    if (!value_.is_object()) refuse(fmt::format("found {}, expected object", name(value_.kind())));
    TensorEntry entry;
    entry.name = tensor_;
    const Value& dtype_name = member("dtype", Value::Kind::String);
    const auto dtype = parse_dtype(dtype_name.as_string());
    if (!dtype) refuse(fmt::format("unknown dtype \"{}\"", escaped(dtype_name.as_string())));
    entry.dtype = *dtype;
    const Value& shape = member("shape", Value::Kind::Array);
    if (shape.as_array().size() > Shape::kMaxRank)
      refuse(fmt::format("{} dimensions, at most {} are accepted", shape.as_array().size(),
                         Shape::kMaxRank));
    for (const Value& dim : shape.as_array()) entry.shape.push_back(size(dim, "shape"));
    const Value& offsets = member("data_offsets", Value::Kind::Array);
    if (offsets.as_array().size() != 2)
      refuse(fmt::format("data_offsets of {} numbers, expected 2", offsets.as_array().size()));
    entry.offset = size(offsets.as_array()[0], "data_offsets");
    const int64_t end = size(offsets.as_array()[1], "data_offsets");
    if (end < entry.offset)
      refuse(fmt::format("data_offsets [{}, {}] end before they begin", entry.offset, end));
    entry.bytes = end - entry.offset;
    return entry;
  }

 private:
  [[noreturn]] void refuse(std::string_view reason) const {
    fail(ErrorCode::BadInput, "{}: tensor {}: {}", path_, escaped(tensor_), reason);
  }
  const Value& member(std::string_view key, Value::Kind kind) const {
    const Value* value = value_.find(key);
    if (!value) refuse(fmt::format("no {}", key));
    if (value->kind() != kind)
      refuse(fmt::format("{}: found {}, expected {}", key, name(value->kind()), name(kind)));
    return *value;
  }
  int64_t size(const Value& value, std::string_view key) const {
    if (!value.is_int())
      refuse(fmt::format("{}: found {}, expected integer", key, name(value.kind())));
    if (value.as_int() < 0) refuse(fmt::format("{}: {} is negative", key, value.as_int()));
    return value.as_int();
  }

  const std::string& path_;
  const std::string& tensor_;
  const Value& value_;
};

// Sorts by offset and checks that the tensors fill the data without hole or overlap, each as long
// as its shape says.
void check_layout(std::vector<TensorEntry>& tensors, int64_t data_bytes, const std::string& path) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  int64_t end = 0;
  const TensorEntry* previous = nullptr;
  for (const TensorEntry& t : tensors) {
    if (t.offset < end)
      fail(ErrorCode::BadInput, "{}: tensor {} begins at {}, inside tensor {} that ends at {}",
           path, escaped(t.name), t.offset, escaped(previous->name), end);
    if (t.offset > end)
      fail(ErrorCode::BadInput, "{}: tensor {} begins at {}: a hole of {} bytes before it", path,
           escaped(t.name), t.offset, t.offset - end);
    const std::optional<int64_t> expected = tensor_bytes(t.dtype, t.shape);
    if (!expected)
      fail(ErrorCode::BadInput, "{}: tensor {}: {} of shape {} has no whole 63-bit number of bytes",
           path, escaped(t.name), name(t.dtype), t.shape.str());
    if (t.bytes != *expected)
      fail(ErrorCode::BadInput, "{}: tensor {}: {} bytes, but {} of shape {} takes {}", path,
           escaped(t.name), t.bytes, name(t.dtype), t.shape.str(), *expected);
    end = t.offset + t.bytes;
    previous = &t;
  }
  if (end != data_bytes)
    fail(ErrorCode::BadInput, "{}: {} bytes of data, the header describes {}: {}", path, data_bytes,
         end, data_bytes < end ? "the file is cut short" : "trailing bytes");
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(File::open(path)) {
  const std::string where = path.string();
  const std::string header = read_header(file_);
  data_offset_ = kLengthBytes + static_cast<int64_t>(header.size());
  const Value root = parse_json(header, where + ": header", {kMaxHeaderBytes, 64, kMaxTensors + 1});
  if (!root.is_object())
    fail(ErrorCode::BadInput, "{}: header: found {}, expected object", where, name(root.kind()));
  if (const Value* metadata = root.find(kMetadataKey)) metadata_ = parse_metadata(*metadata, where);
  const bool ours = std::any_of(metadata_.begin(), metadata_.end(),
                                [](const auto& item) { return item.first.starts_with("lema"); });
  if (ours && header.front() != '{')
    fail(ErrorCode::BadInput, "{}: header: a file written by lema starts with '{{'", where);

  tensors_.reserve(root.as_object().size());
  for (const auto& [key, value] : root.as_object())
    if (key != kMetadataKey) tensors_.push_back(EntryParser(where, key, value).parse());
  if (static_cast<int64_t>(tensors_.size()) > kMaxTensors)
    fail(ErrorCode::BadInput, "{}: {} tensors, at most {} are accepted", where, tensors_.size(),
         kMaxTensors);
  check_layout(tensors_, file_.size() - data_offset_, where);
  by_name_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    tensors_[i].offset += data_offset_;
    by_name_.emplace(tensors_[i].name, i);
  }
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, const std::vector<TensorSpec>& tensors,
                                     const Metadata& metadata, int64_t data_alignment) {
  check(data_alignment >= 8 && (data_alignment & (data_alignment - 1)) == 0, "data alignment {}",
        data_alignment);
  // Without spaces, as the reference writer.
  std::string header = "{";
  std::unordered_set<std::string_view> names = {kMetadataKey};
  for (const auto& [key, text] : metadata) {
    header += header.size() == 1 ? "\"__metadata__\":{" : ",";
    header += dump_json(Value(key)) + ":" + dump_json(Value(text));
  }
  if (!metadata.empty()) header += "}";
  for (const TensorSpec& t : tensors) {
    const auto bytes = tensor_bytes(t.dtype, t.shape);
    const auto end = checked_add(remaining_, bytes);
    check(end && names.insert(t.name).second && t.name.size() <= kMaxNameBytes,
          "tensor {} ({} {}): repeated, or its name or size is out of range", escaped(t.name),
          name(t.dtype), t.shape.str());
    if (header.size() > 1) header += ',';
    header += dump_json(Value(t.name)) + fmt::format(R"(:{{"dtype":"{}","shape":[)", name(t.dtype));
    for (int i = 0; i < t.shape.rank(); ++i)
      header += fmt::format("{}{}", i == 0 ? "" : ",", t.shape[i]);
    header += fmt::format(R"(],"data_offsets":[{},{}]}})", remaining_, *end);
    remaining_ = *end;
  }
  header += '}';
  const int64_t length = kLengthBytes + static_cast<int64_t>(header.size());
  header.append(static_cast<size_t>(-length & (data_alignment - 1)), ' ');
  if (static_cast<int64_t>(header.size()) > kMaxHeaderBytes)
    fail(ErrorCode::Usage, "{}: the header would take {} bytes, the format allows {}",
         path.string(), header.size(), kMaxHeaderBytes);

  char prefix[kLengthBytes];
  for (size_t i = 0; i < kLengthBytes; ++i)
    prefix[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  file_ = File::create(path);
  file_.write(prefix, kLengthBytes);
  file_.write(header.data(), static_cast<int64_t>(header.size()));
}

void SafetensorsWriter::write(const void* data, int64_t bytes) {
  check(bytes <= remaining_, "{}: {} bytes to write, {} are left", file_.path().string(), bytes,
        remaining_);
  file_.write(data, bytes);
  remaining_ -= bytes;
}

void SafetensorsWriter::finish() {
  check(remaining_ == 0, "{}: {} bytes of tensors were not written", file_.path().string(),
        remaining_);
  file_.sync();
  file_.close();
}

void sort_as_reference_writer(std::vector<TensorSpec>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
}

}  // namespace lema

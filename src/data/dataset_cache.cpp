// Keys, reads and writes tokenised data sets. Every length is checked against the bytes that are
// left, so that a damaged file costs one load and nothing else.
#include "data/dataset_cache.h"

#include <cstring>
#include <type_traits>

#include "core/build_id.h"
#include "core/error.h"
#include "core/folder.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/mapped_file.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr std::string_view kMagic = "lemadata";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = kMagic.size() + 2 * sizeof(uint32_t);

fs::path file_of(const fs::path& folder, const std::string& key) {
  return folder / (key + ".rows");
}

class Writer {
 public:
  template <typename T>
  void number(T x) {
    static_assert(std::is_integral_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&x), sizeof x);
  }
  void text(std::string_view x) {
    number(static_cast<int64_t>(x.size()));
    bytes_ += x;
  }
  template <typename T>
  void array(const std::vector<T>& x) {
    number(static_cast<int64_t>(x.size()));
    bytes_.append(reinterpret_cast<const char*>(x.data()), x.size() * sizeof(T));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Reads what Writer wrote; BadInput where the bytes end early.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  template <typename T>
  T number() {
    T x;
    std::memcpy(&x, take(sizeof x).data(), sizeof x);
    return x;
  }
  std::string text() { return std::string(take(count(1))); }
  template <typename T>
  std::vector<T> array() {
    const size_t bytes = count(sizeof(T));
    std::vector<T> x(bytes / sizeof(T));
    const std::string_view from = take(bytes);
    if (bytes > 0) std::memcpy(x.data(), from.data(), bytes);
    return x;
  }
  // The number of elements that follow, each of at least `least` bytes.
  int64_t elements(size_t least) {
    const auto x = number<int64_t>();
    if (x < 0 || static_cast<uint64_t>(x) > rest_.size() / least) short_file();
    return x;
  }
  bool at_end() const { return rest_.empty(); }

 private:
  [[noreturn]] static void short_file() { fail(ErrorCode::BadInput, "it ends early"); }
  size_t count(size_t element_bytes) {
    return static_cast<size_t>(elements(element_bytes)) * element_bytes;
  }
  std::string_view take(size_t bytes) {
    if (bytes > rest_.size()) short_file();
    const std::string_view part = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return part;
  }
  std::string_view rest_;
};

std::string encode(const Dataset& dataset) {
  Writer out;
  out.number(static_cast<int64_t>(dataset.files.size()));
  for (const DataFile& file : dataset.files) {
    out.text(file.format);
    out.text(file.verdict);
  }
  out.text(dataset.format);
  for (const int64_t count :
       {dataset.dropped_rows, dataset.truncated_rows, dataset.cut_tokens, dataset.endless_rows})
    out.number(count);
  for (const int64_t count : dataset.remarked_rows) out.number(count);
  out.number(static_cast<int64_t>(dataset.rows.size()));
  for (const Row& row : dataset.rows) {
    out.number(row.line);
    out.number(row.file);
    out.number(row.content);
    out.array(row.ids);
    out.array(row.trained);
  }
  return out.bytes();
}

Dataset decode(std::string_view body, const std::vector<std::string>& files) {
  constexpr size_t kRowBytes = 36;  // of a row without tokens
  Reader in(body);
  Dataset dataset;
  if (in.elements(16) != std::ssize(files)) fail(ErrorCode::BadInput, "it has other files");
  for (const std::string& file : files) {
    const std::string format = in.text();
    dataset.files.push_back({file, format, in.text()});
  }
  dataset.format = in.text();
  for (int64_t* count :
       {&dataset.dropped_rows, &dataset.truncated_rows, &dataset.cut_tokens, &dataset.endless_rows})
    *count = in.number<int64_t>();
  for (int64_t& count : dataset.remarked_rows) count = in.number<int64_t>();
  const int64_t rows = in.elements(kRowBytes);
  dataset.rows.resize(static_cast<size_t>(rows));
  for (Row& row : dataset.rows) {
    row.line = in.number<int64_t>();
    row.file = in.number<int32_t>();
    row.content = in.number<uint64_t>();
    row.ids = in.array<int32_t>();
    row.trained = in.array<uint8_t>();
    if (row.trained.size() != row.ids.size() || row.file < 0 || row.file >= std::ssize(files))
      fail(ErrorCode::BadInput, "a row of it does not fit together");
  }
  if (rows == 0 || !in.at_end()) fail(ErrorCode::BadInput, "its length is wrong");
  recount(dataset);
  return dataset;
}

}  // namespace

std::string dataset_key(const std::vector<std::string>& paths, const RunConfig::Data& options,
                        const ModelText& text) {
  if (text.fingerprint().empty() || text.renders_date()) return "";
  Value::Object map;
  for (const auto& [ours, theirs] : options.map) map.emplace_back(ours, theirs);
  Value append_eos;
  if (options.append_eos) append_eos = *options.append_eos;
  // What each row becomes; the template and its variables are the fingerprint's.
  const Value steering =
      Value::Object{{"format", options.format},     {"map", std::move(map)},
                    {"too_long", options.too_long}, {"max_tokens", options.max_tokens},
                    {"train_on", options.train_on}, {"append_eos", append_eos}};
  std::string all = fmt::format("{} {} {} ", text.fingerprint(), dump_json(steering),
                                build_id());
  // The extension says how a file is read.
  for (const std::string& path : data_files(paths))
    all += fmt::format("{} {} ", sha256_file(path), fs::path(path).filename().string());
  return sha256(all);
}

std::optional<Dataset> read_cached(const fs::path& folder, const std::string& key,
                                   const std::vector<std::string>& paths) {
  const fs::path path = file_of(folder, key);
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  try {
    const MappedFile file(path);
    const std::string_view bytes(reinterpret_cast<const char*>(file.data()),
                                 static_cast<size_t>(file.size()));
    if (bytes.size() < kHeaderBytes || !bytes.starts_with(kMagic))
      fail(ErrorCode::BadInput, "it is no data cache");
    Reader header(bytes.substr(kMagic.size()));
    const auto version = header.number<uint32_t>(), crc = header.number<uint32_t>();
    const std::string_view body = bytes.substr(kHeaderBytes);
    if (version != kVersion || crc != crc32c(body.data(), std::ssize(body)))
      fail(ErrorCode::BadInput, "its checksum or version is wrong");
    const std::vector<std::string> files = data_files(paths);
    Dataset dataset = decode(body, files);
    if (file.has_fault()) fail(ErrorCode::BadInput, "it was cut while it was read");
    dataset.path = files.front();
    if (files.size() > 1) dataset.path += fmt::format(" and {} more", files.size() - 1);
    return dataset;
  } catch (const Error& damage) {
    log::warn("{}: not used: {}", path.string(), damage.what());
    return std::nullopt;
  }
}

void write_cached(const fs::path& folder, const std::string& key, const Dataset& dataset) {
  if (!dataset.bad.empty()) return;
  const std::string body = encode(dataset);
  Writer header;
  header.number(kVersion);
  header.number(crc32c(body.data(), std::ssize(body)));
  try {
    create_folders(folder);
    write_file(file_of(folder, key), std::string(kMagic) + header.bytes() + body);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::Io) throw;
    log::warn("the tokenised data set is not kept: {}", error.what());
  }
}

}  // namespace lema

// Plain and gzip files as one stream of bytes. zlib stays behind this file.
#include "formats/text_stream.h"

#include <zlib.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/out_of_memory.h"

namespace lema {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;
constexpr int64_t kFreeExpansionBytes = int64_t{64} << 20;

// Files that are often given in place of text, by their first bytes.
struct Mark {
  std::string_view bytes, what;
};
constexpr std::array<Mark, 6> kMarks = {{
    {"\x1f\x8b", "gzip data; name it .gz"},
    {"PAR1", "a Parquet file; write it as JSONL"},
    {"ARROW1", "an Arrow file; write it as JSONL"},
    {"\x28\xb5\x2f\xfd", "Zstandard data; decompress it or pack it with gzip"},
    {"PK\x03\x04", "a zip archive; unpack it"},
    {"version https://git-lfs", "a git-LFS pointer; fetch the file itself (git lfs pull)"},
}};

}  // namespace

// One running decompression.
struct TextStream::Inflater {
  z_stream z{};
  std::string output = std::string(static_cast<size_t>(kPieceBytes), '\0');
  int64_t expanded = 0;   // bytes put out
  bool in_member = true;  // between a member's first and last byte

  Inflater() {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    const int result = inflateInit2(&z, kGzipOnly);
    check_memory(result != Z_MEM_ERROR);
    check(result == Z_OK, "zlib does not start");
  }
  Inflater(const Inflater&) = delete;
  ~Inflater() { inflateEnd(&z); }
};

TextStream::TextStream(const fs::path& path) : file_(File::open(path)), size_(file_.size()) {
  std::string head(static_cast<size_t>(std::min<int64_t>(size_, 32)), '\0');
  file_.read_at(head.data(), std::ssize(head), 0);
  if (path.extension() == ".gz" || path.extension() == ".GZ") {
    if (!head.starts_with(kMarks[0].bytes))
      fail(ErrorCode::BadInput, "{}: not gzip data, which its name promises", path.string());
    inflater_ = std::make_unique<Inflater>();
    return;
  }
  for (const Mark& mark : kMarks)
    if (head.starts_with(mark.bytes))
      fail(ErrorCode::BadInput, "{}: this is {}", path.string(), mark.what);
}

TextStream::TextStream(TextStream&&) noexcept = default;
TextStream::~TextStream() = default;

std::string_view TextStream::next() { return inflater_ ? inflate_piece() : read_piece(); }

std::string_view TextStream::read_piece() {
  piece_.resize(static_cast<size_t>(std::min(kPieceBytes, size_ - offset_)));
  file_.read_at(piece_.data(), std::ssize(piece_), offset_);
  offset_ += std::ssize(piece_);
  return piece_;
}

std::string_view TextStream::inflate_piece() {
  Inflater& in = *inflater_;
  z_stream& z = in.z;
  z.next_out = reinterpret_cast<Bytef*>(in.output.data());
  z.avail_out = static_cast<uInt>(in.output.size());
  while (z.avail_out > 0) {
    if (z.avail_in == 0) {
      const std::string_view piece = read_piece();
      z.next_in = reinterpret_cast<Bytef*>(piece_.data());
      z.avail_in = static_cast<uInt>(piece.size());
      if (piece.empty() && in.in_member)
        fail(ErrorCode::BadInput, "{}: the gzip data ends in the middle", path().string());
      if (piece.empty()) break;
    }
    if (!in.in_member && *z.next_in == 0) {  // padding, as tapes and block devices leave it
      ++z.next_in;
      --z.avail_in;
      continue;
    }
    if (!in.in_member) inflateReset(&z);  // what follows a member must be another one
    in.in_member = true;
    const int result = inflate(&z, Z_NO_FLUSH);
    if (result == Z_STREAM_END) {
      in.in_member = false;
    } else if (result != Z_OK) {
      fail(ErrorCode::BadInput, "{}: damaged gzip data near byte {} of {}: {}", path().string(),
           offset_ - int64_t{z.avail_in}, size_, z.msg ? z.msg : "no reason given");
    }
  }
  const size_t bytes = in.output.size() - z.avail_out;
  in.expanded += static_cast<int64_t>(bytes);
  if (in.expanded > kFreeExpansionBytes + kMaxExpansion * offset_)
    fail(ErrorCode::BadInput,
         "{}: expands more than {}-fold, which no text does; decompress it yourself to use it",
         path().string(), kMaxExpansion);
  return std::string_view(in.output).substr(0, bytes);
}

}  // namespace lema

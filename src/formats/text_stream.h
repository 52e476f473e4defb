// TextStream: the bytes of a text file from its start to its end, decompressed where its name ends
// in .gz. A data set is read through one, piece by piece, so that its size does not matter.
// Called by data/record_reader.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/file.h"

namespace lema {

// Threads: one. Ref: RFC 1952 (gzip; several members one after the other are one text).
class TextStream {
 public:
  // Opens the file. BadInput when it is missing, when a .gz file is not gzip, and when another file
  // begins with gzip's, Parquet's, Arrow's, Zstandard's or git-LFS's mark.
  explicit TextStream(const fs::path& path);
  TextStream(TextStream&&) noexcept;
  ~TextStream();

  // The next bytes, at most 1 MiB, valid until the next call; empty at the end of the text.
  // BadInput "PATH: ..." for a damaged or cut .gz and for one that expands beyond kMaxExpansion.
  std::string_view next();

  const fs::path& path() const { return file_.path(); }

  // A gzip file may hold this many times its own bytes and 64 MiB more: text packs 3 to 20 times,
  // deflate's own limit is 1032.
  static constexpr int64_t kMaxExpansion = 256;

 private:
  struct Inflater;
  std::string_view read_piece();
  std::string_view inflate_piece();

  File file_;
  int64_t size_ = 0, offset_ = 0;  // of the file itself
  std::string piece_;              // of the file itself
  std::unique_ptr<Inflater> inflater_;
};

}  // namespace lema

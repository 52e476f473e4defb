// MappedFile: a file's bytes as memory, guarded: where the disk fails, or the file was cut while it
// is mapped, the process reads zeros instead of dying of SIGBUS, and has_fault() says so. Who reads
// through a mapping asks it before the results count: HostStore, the data cache.
#pragma once

#include "core/file.h"

namespace lema {

// A read-only private mapping of a whole file. Move-only.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const fs::path& path) : MappedFile(File::open(path)) {}
  // Of the very file that is open, whatever its path names meanwhile.
  explicit MappedFile(const File& file);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  // Whether a page could not be read so far; it and those after it are zeros since. Threads: any.
  bool has_fault() const;

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
  int guard_ = -1;  // entry of the table of guarded mappings
};

}  // namespace lema

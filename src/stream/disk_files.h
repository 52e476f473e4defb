// DiskFiles: a model's files, opened for reading windows of them: through the page cache or past
// it. And the choice between the two, by measuring.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/file.h"
#include "formats/hf_model.h"

namespace lema {

// How bytes come from disk: the kernel maps files in place; reads through the page cache; reads
// past it (O_DIRECT).
enum class DiskMode { Mmap, Buffered, Direct };
std::string_view name(DiskMode mode);

class DiskFiles {
 public:
  // Past the page cache with `direct`; Usage error where the file system of a file cannot. `folder`
  // outlives the object.
  DiskFiles(const ModelFolder& folder, bool direct);

  bool is_direct() const { return !direct_.empty(); }
  int descriptor(size_t file) const { return opened(file).descriptor(); }
  // Reads [offset, offset + bytes), all multiples of kDiskBlock as is `out`; the file may end after
  // `needed` of them. BadInput when it ends before, Io, both with file and place. Threads:
  // concurrent.
  void read(size_t file, int64_t offset, int64_t bytes, int64_t needed, std::byte* out) const;

  // Whether every file can be read past the page cache.
  static bool can_be_direct(const ModelFolder& folder);

 private:
  const File& opened(size_t file) const {
    return is_direct() ? direct_[file] : folder_.files()[file].file();
  }
  const ModelFolder& folder_;
  std::vector<File> direct_;  // empty: the folder's own files are read
};

// Bytes per second that reads from disk bring, measured over up to 512 MiB of the largest file, a
// small one in up to three rounds. Infinite for a model of less than 8 MiB, which takes no time to
// speak of.
// cached: buffered reads of what the page cache holds.
double disk_rate(const ModelFolder& folder, DiskMode mode, bool cached);
// Whether a page cache of `bytes` holds the model.
bool fits_page_cache(const ModelFolder& folder, int64_t bytes);

// Bytes per second of either mode: the best of a few rounds in turns, since what else the machine
// does only slows a round down.
struct DiskRates {
  double direct = 0, buffered = 0;
};
DiskRates best_rates(const std::function<double(bool direct, int64_t round)>& rate);

// Buffered or Direct, whichever reads this folder's largest file faster; says so in the log. Reads
// up to 96 MiB in either way. What does not fit in `cache_bytes` of page cache is measured cold.
DiskMode faster_disk_mode(const ModelFolder& folder, int64_t cache_bytes);

}  // namespace lema

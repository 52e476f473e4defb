// Opening of files past the page cache, and the measurement that chooses.
#include "stream/disk_files.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/units.h"
#include "device.h"
#include "stream/disk_reader.h"

namespace lema {

std::string_view name(DiskMode mode) {
  return mode == DiskMode::Mmap ? "mmap" : mode == DiskMode::Direct ? "direct" : "buffered";
}

DiskFiles::DiskFiles(const ModelFolder& folder, bool direct) : folder_(folder) {
  for (const SafetensorsFile& file : folder.files()) {
    if (!direct) return;
    std::optional<File> opened = file.file().open_direct();
    if (!opened)
      fail(ErrorCode::Usage,
           "{}: its file system cannot read past the page cache; set memory.disk to buffered",
           file.file().path().string());
    direct_.push_back(std::move(*opened));
  }
}

void DiskFiles::read(size_t file, int64_t offset, int64_t bytes, int64_t needed,
                     std::byte* out) const {
  if (opened(file).read_up_to(out, bytes, offset) < needed)
    fail(ErrorCode::BadInput, "{}: ends at byte {}; it was longer when it was opened",
         opened(file).path().string(), opened(file).size());
}

bool DiskFiles::can_be_direct(const ModelFolder& folder) {
  return std::all_of(folder.files().begin(), folder.files().end(),
                     [](const SafetensorsFile& file) { return file.file().open_direct(); });
}

namespace {

constexpr int64_t kSamples = 8, kSampleBytes = int64_t{4} << 20, kRateSamples = 128;
constexpr int64_t kRounds = 3;

size_t largest_file(const ModelFolder& folder) {
  size_t largest = 0;
  for (size_t i = 0; i < folder.files().size(); ++i)
    if (folder.files()[i].file().size() > folder.files()[largest].file().size()) largest = i;
  return largest;
}

// Bytes per second over every other of 2 `samples` places, spread over the file: the even ones or
// the odd ones. Cold reads are of other places each round, as far as the gaps between these go.
double read_rate(const ModelFolder& folder, size_t index, bool direct, bool cold,
                 int64_t samples, int64_t round = 0) {
  const File& file = folder.files()[index].file();
  const int64_t stride = file.size() / (2 * samples) / kDiskBlock * kDiskBlock;  // >= a sample
  const int64_t past = cold ? std::min(round * kSampleBytes, stride - kSampleBytes) : 0;
  std::vector<Extent> extents;
  for (int64_t i = 0; i < samples; ++i)
    extents.push_back({index, (2 * i + direct) * stride + past, 0, kSampleBytes});
  for (const Extent& extent : extents)
    if (cold && !direct) file.forget_cached(extent.bytes, extent.file_offset);
  const HostImage image(extents);
  const std::unique_ptr<Device> cpu = make_cpu_device();  // whose pages are those of a ring
  cpu->commit_allocations();
  const Buffer memory = cpu->allocate_pinned(image.bytes(), "what is read to time the disk");
  const DiskFiles files(folder, direct);
  DiskReader reader(files);
  DiskJob job;
  const auto start = std::chrono::steady_clock::now();
  reader.start(image, memory.data(), job);
  reader.wait(job);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(image.bytes()) / seconds.count();
}

}  // namespace

double disk_rate(const ModelFolder& folder, DiskMode mode, bool cached) {
  const size_t largest = largest_file(folder);
  const int64_t places = folder.files()[largest].file().size() / kSampleBytes;
  if (places < 2) return std::numeric_limits<double>::infinity();
  // Little of the memory that there is, which the run needs more than its plan does.
  const int64_t room = std::max<int64_t>(1, available_memory() / 8 / kSampleBytes);
  const int64_t samples = std::min({kRateSamples, places / 2, room});
  const int64_t rounds = std::min(kRounds, kRateSamples / samples);
  const auto rate = [&](int64_t round) {
    return read_rate(folder, largest, mode == DiskMode::Direct, !cached, samples, round);
  };
  if (cached) rate(0);  // into the cache
  double seconds = 0;  // for a byte, of each round
  for (int64_t round = 0; round < rounds; ++round) seconds += 1 / rate(round);
  return static_cast<double>(rounds) / seconds;
}

bool fits_page_cache(const ModelFolder& folder, int64_t bytes) {
  for (const SafetensorsFile& file : folder.files()) bytes -= file.file().size();
  return bytes >= 0;
}

DiskRates best_rates(const std::function<double(bool direct, int64_t round)>& rate) {
  DiskRates best;
  for (int64_t round = 0; round < kRounds; ++round) {
    best.direct = std::max(best.direct, rate(true, round));
    best.buffered = std::max(best.buffered, rate(false, round));
  }
  return best;
}

DiskMode faster_disk_mode(const ModelFolder& folder, int64_t cache_bytes) {
  if (!DiskFiles::can_be_direct(folder)) {
    log::info("disk: the file system cannot read past the page cache: buffered");
    return DiskMode::Buffered;
  }
  const size_t largest = largest_file(folder);
  const int64_t measured = 2 * kSamples * kSampleBytes;
  if (folder.files()[largest].file().size() < measured) return DiskMode::Buffered;
  const bool cold = !fits_page_cache(folder, cache_bytes);
  const auto [direct, buffered] = best_rates([&](bool is_direct, int64_t round) {
    return read_rate(folder, largest, is_direct, cold, kSamples, round);
  });
  const DiskMode mode = direct >= buffered ? DiskMode::Direct : DiskMode::Buffered;
  log::info("disk: direct reads {}/s, buffered {}/s{}: {}",
            format_bytes(static_cast<int64_t>(direct)),
            format_bytes(static_cast<int64_t>(buffered)), cold ? " from disk" : "", name(mode));
  return mode;
}

}  // namespace lema

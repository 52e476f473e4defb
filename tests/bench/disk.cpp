// What reading a model's weights from disk takes, with nothing else going on: the rate that
// scripts/bench_disk.py holds a training step to. A person or that script runs it.
//   bench_disk MODEL direct|buffered [SLOTS]     prints one JSON object
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "stream/host_store.h"

int main(int argc, char** argv) {
  using namespace lema;
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_disk MODEL direct|buffered [SLOTS]\n");
    return 2;
  }
  const ModelFolder folder{fs::path(argv[1])};
  const PieceTable table = make_piece_table(folder);
  const auto device = make_cpu_device();
  device->commit_allocations();
  HostPlacement placement;
  placement.disk = std::string_view(argv[2]) == "direct" ? DiskMode::Direct : DiskMode::Buffered;
  placement.holds_all = false;
  placement.held.assign(static_cast<size_t>(table.unit_count()), false);
  placement.slots = argc > 3 ? std::atoi(argv[3]) : 2;
  HostStore store(folder, table, *device, placement);
  std::vector<int64_t> units;
  for (int64_t u = 0; u < table.unit_count(); ++u) units.push_back(u);
  const int64_t before = store.read_bytes();
  const auto start = std::chrono::steady_clock::now();
  store.begin_pass(units);
  for (const int64_t unit : units) {
    store.acquire(unit);
    store.release(Queue::Compute);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const auto bytes = static_cast<double>(store.read_bytes() - before);
  std::printf("{\"bytes\": %.0f, \"seconds\": %.6f, \"bytes_per_s\": %.0f}\n", bytes,
              seconds.count(), bytes / seconds.count());
  return 0;
}

// Weights in host memory: images of windows, reads by every engine, the ring under many passes, and
// copies that are late.
#include "stream/host_store.h"

#include <chrono>
#include <cstring>

#include "support/catch.h"
#include "support/late_device.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

using namespace lema;
using namespace lema::test;

namespace {

// A tiny model on disk, and what its file holds.
class Model {
 public:
  explicit Model(int64_t blocks = 5, bool tied_head = false, bool has_own_head = false)
      : temp_("host_store"),
        folder_(written(temp_.path() / "model",
                        {.L = blocks, .tied_head = tied_head, .has_own_head = has_own_head})),
        table_(make_piece_table(folder_)),
        bytes_(read_text(path(), int64_t{1} << 30)) {}

  fs::path path() const { return temp_.path() / "model" / "model.safetensors"; }
  const ModelFolder& folder() const { return folder_; }
  const PieceTable& table() const { return table_; }
  int64_t units() const { return table_.unit_count(); }
  bool same(const void* data, const Extent& extent) const {
    return std::memcmp(data, bytes_.data() + extent.file_offset,
                       static_cast<size_t>(extent.bytes)) == 0;
  }
  bool holds(const HostBytes& found, int64_t unit) const {
    for (const Extent& extent : unit_extents(table_.unit(unit)))
      if (!same(found.at(extent.file, extent.file_offset), extent)) return false;
    return true;
  }

 private:
  static fs::path written(const fs::path& folder, const TinyModelOptions& options) {
    write_tiny_model(folder, options);
    return folder;
  }
  TempFolder temp_;
  ModelFolder folder_;
  PieceTable table_;
  std::string bytes_;
};

// Every third unit is held, the others share a ring.
HostPlacement ring_of(const Model& model, DiskMode disk, int64_t slots, bool holds_some) {
  HostPlacement placement{disk, false, std::vector<bool>(static_cast<size_t>(model.units())),
                          slots};
  for (size_t u = 1; holds_some && u < placement.held.size(); u += 3) placement.held[u] = true;
  return placement;
}

bool can_read(const Model& model, DiskMode mode) {
  if (mode != DiskMode::Direct || DiskFiles::can_be_direct(model.folder())) return true;
  WARN("the file system of the temporary folder has no O_DIRECT: direct reads are not tested");
  return false;
}

}  // namespace

TEST_CASE("an image holds its extents at the alignment of the file and no block twice") {
  const HostImage image(
      {{1, 9000, 0, 100}, {0, 4090, 0, 10}, {0, 4100, 0, 5000}, {0, 20480, 0, 1}});
  REQUIRE(image.windows().size() == 3);
  CHECK(image.windows()[0].begin == 0);
  CHECK(image.windows()[0].bytes == 12288);
  CHECK(image.windows()[0].needed == 9100);
  CHECK(image.windows()[1].image_offset == 12288);
  CHECK(image.bytes() == 12288 + 4096 + 4096);
  CHECK(image.offset_of(0, 4090) == 4090);
  CHECK(image.offset_of(0, 20480) == 12288);
  CHECK(image.offset_of(1, 9001) == 16384 + 9001 - 8192);
  for (const auto& [file, offset] :
       {std::pair<size_t, int64_t>{0, 9100}, {0, 20481}, {1, 0}, {2, 0}})
    CHECK(contains(message_of(ErrorCode::Internal, [&] { image.offset_of(file, offset); }),
                   "is in no window"));
}

TEST_CASE("parts of an image take every disk block once") {
  // The second part lies in the first block and begins another; the third is in the end of that.
  const Extent first{0, 100, 0, 5000}, second{0, 5100, 0, 4000}, third{0, 9100, 0, 50};
  const HostImage image({first, second, third});
  std::vector<bool> taken(static_cast<size_t>(image.bytes() / kDiskBlock));
  const HostImage a = image.part({first}, taken);
  REQUIRE(a.windows().size() == 1);
  CHECK(a.windows()[0].bytes == 8192);
  CHECK(a.windows()[0].needed == 8192);
  const HostImage b = image.part({second}, taken);
  REQUIRE(b.windows().size() == 1);
  CHECK(b.windows()[0].begin == 8192);
  CHECK(b.windows()[0].image_offset == 8192);
  CHECK(b.windows()[0].bytes == 4096);
  CHECK(b.windows()[0].needed == 9150 - 8192);  // the third's bytes too: it will not read them
  CHECK(image.part({third}, taken).windows().empty());
}

TEST_CASE("every engine reads what is in the file") {
  const Model model;
  const DiskMode mode = GENERATE(DiskMode::Buffered, DiskMode::Direct);
  if (!can_read(model, mode)) return;
  const bool uring = GENERATE(false, true);
  const DiskFiles files(model.folder(), mode == DiskMode::Direct);
  const auto device = make_cpu_device();
  std::vector<HostImage> images;
  std::vector<Buffer> memory;
  for (int64_t u = 0; u < model.units(); ++u) {
    images.emplace_back(unit_extents(model.table().unit(u)));
    memory.push_back(device->allocate_pinned(images.back().bytes(), "image"));
  }
  std::vector<DiskJob> jobs(images.size());
  DiskReader reader(files, uring);
  int64_t bytes = 0;
  for (size_t u = 0; u < images.size(); ++u) reader.start(images[u], memory[u].data(), jobs[u]);
  for (size_t u = images.size(); u-- > 0;) {
    reader.wait(jobs[u]);
    bytes += images[u].bytes();
    for (const Extent& extent : unit_extents(model.table().unit(static_cast<int64_t>(u))))
      CHECK(model.same(
          memory[u].data() + images[u].offset_of(extent.file, extent.file_offset), extent));
  }
  CHECK(reader.read_bytes() == bytes);

  fs::resize_file(model.path(), 9000);
  DiskJob job;
  reader.start(images[3], memory[3].data(), job);
  const std::string message = message_of(ErrorCode::BadInput, [&] { reader.wait(job); });
  CHECK(contains(message, "model.safetensors: ends at byte 9000"));
}

TEST_CASE("the ring gives every visit its bytes, pass after pass, and reads no more than planned") {
  const Model model(GENERATE(4, 5), GENERATE(false, true));
  const DiskMode mode = GENERATE(DiskMode::Buffered, DiskMode::Direct);
  if (!can_read(model, mode)) return;
  const int64_t slots = GENERATE(2, 3, 7);
  const bool holds_some = GENERATE(false, true);
  const auto device = make_cpu_device();
  const HostPlacement placement = ring_of(model, mode, slots, holds_some);
  HostStore store(model.folder(), model.table(), *device, placement);
  CHECK_FALSE(store.has_embedding());
  const auto blocks = static_cast<int64_t>(model.table().blocks.size());
  const std::vector<int64_t> visits = training_visits(blocks, model.units() - blocks, 0);
  RingState state(static_cast<size_t>(slots), -1);
  for (int pass = 0; pass < 4; ++pass) {
    const int64_t before = store.read_bytes();
    store.begin_pass(visits);
    for (const int64_t unit : visits) {
      CHECK(model.holds(store.acquire(unit), unit));
      store.release(Queue::Compute);
    }
    const Program program = make_program(visits, placement.held, state);
    state = program.final_state;
    int64_t planned = 0;
    for (const int64_t unit : loaded_units(program))
      planned += HostImage(unit_extents(model.table().unit(unit))).bytes();
    CHECK(store.read_bytes() - before == planned);
  }
  // A pass that ends early leaves the ring usable.
  store.begin_pass(visits);
  for (int64_t unit = 0; unit < 2; ++unit) {
    CHECK(model.holds(store.acquire(unit), unit));
    store.release(Queue::Compute);
  }
  store.begin_pass(visits);
  for (const int64_t unit : visits) {
    CHECK(model.holds(store.acquire(unit), unit));
    store.release(Queue::Compute);
  }
}

TEST_CASE("a copy that is still under way keeps its bytes in the ring") {
  const Model model;
  LateDevice device;
  HostStore store(model.folder(), model.table(), device,
                  ring_of(model, DiskMode::Buffered, GENERATE(2, 3), false));
  std::vector<int64_t> visits;
  for (int64_t i = 0; i < 4 * model.units(); ++i) visits.push_back(i % model.units());
  std::vector<std::vector<std::byte>> copies;
  store.begin_pass(visits);
  for (const int64_t unit : visits) {
    const HostBytes bytes = store.acquire(unit);
    for (const Extent& extent : unit_extents(model.table().unit(unit))) {
      copies.emplace_back(static_cast<size_t>(extent.bytes));
      device.copy_async(Queue::H2D, copies.back().data(), bytes.at(extent.file, extent.file_offset),
                        extent.bytes);
    }
    store.release(Queue::H2D);
  }
  device.synchronize(Queue::H2D);
  size_t copy = 0;
  for (const int64_t unit : visits)
    for (const Extent& extent : unit_extents(model.table().unit(unit)))
      CHECK(model.same(copies[copy++].data(), extent));
}

TEST_CASE("a store that holds all, or maps all, has the embedding; a changed file ends a pass") {
  const Model model(3, true, GENERATE(false, true));
  const auto device = make_cpu_device();
  const DiskMode mode = GENERATE(DiskMode::Mmap, DiskMode::Buffered, DiskMode::Direct);
  if (!can_read(model, mode)) return;
  HostPlacement placement;
  placement.disk = mode;
  HostStore store(model.folder(), model.table(), *device, placement);
  CHECK(store.has_embedding());
  const std::vector<int64_t> visits = training_visits(3, model.units() - 3, 0);
  store.begin_pass(visits);
  for (const int64_t unit : visits) {
    CHECK(model.holds(store.acquire(unit), unit));
    store.release(Queue::Compute);
  }
  const PlacedField& embed = model.table().embed;
  CHECK(model.same(store.small().view(embed).data, {0, embed.file_offset, 0, embed.bytes}));
  fs::resize_file(model.path(), 4096);
  if (mode != DiskMode::Mmap) return store.check_files();  // read for good
  CHECK(contains(message_of(ErrorCode::BadInput, [&] { store.begin_pass(visits); }),
                 "model.safetensors: has 4096 bytes and had"));
}

TEST_CASE("a file that changes while it is read for good ends the first pass") {
  const Model model(3, true);
  const auto device = make_cpu_device();
  HostPlacement placement{DiskMode::Buffered, GENERATE(true, false), {}, 0};
  placement.held.assign(static_cast<size_t>(model.units()), true);
  HostStore store(model.folder(), model.table(), *device, placement);
  fs::last_write_time(model.path(), fs::file_time_type::clock::now() + std::chrono::hours(1));
  const std::string message = message_of(ErrorCode::BadInput, [&] {
    for (int64_t unit = 0; unit < model.units(); ++unit) store.acquire(unit);
  });
  CHECK(contains(message, "model.safetensors: "));
}

TEST_CASE("a round that something else slows down chooses no disk mode") {
  std::string order;
  const DiskRates rates = best_rates([&](bool direct, int64_t round) {
    order += direct ? 'd' : 'b';
    if (round == 0) return direct ? 50.0 : 300.0;
    return direct ? 900.0 - 10.0 * static_cast<double>(round) : 310.0;
  });
  CHECK(rates.direct == 890);
  CHECK(rates.buffered == 310);
  CHECK(order == "dbdbdb");
}

TEST_CASE("a folder too small to measure is read through the page cache") {
  CHECK(faster_disk_mode(Model(1).folder(), 0) == DiskMode::Buffered);
}

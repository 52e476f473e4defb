// Core: bytes, conversions, hashes, files, threads.
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cmath>
#include <limits>
#include <thread>

#include "core/build_id.h"
#include "core/control_groups.h"
#include "core/dtype.h"
#include "core/file.h"
#include "core/folder.h"
#include "core/hash.h"
#include "core/memory.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "core/units.h"
#include "core/value.h"
#include "support/temp_folder.h"

using namespace lema;

TEST_CASE("bf16 rounds to nearest even and keeps NaN and infinity") {
  CHECK(to_bf16(1.0f).bits == 0x3f80);
  CHECK(to_bf16(1.00390625f).bits == 0x3f80);  // half way, even below
  CHECK(to_bf16(1.01171875f).bits == 0x3f82);  // half way, even above
  CHECK(std::isnan(to_f32(to_bf16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isinf(to_f32(to_bf16(std::numeric_limits<float>::infinity()))));
  CHECK(std::isinf(to_f32(to_bf16(std::numeric_limits<float>::max()))));
  for (uint32_t bits = 0; bits < 0x7f80; ++bits)
    CHECK(to_bf16(to_f32(bf16{static_cast<uint16_t>(bits)})).bits == bits);
}

TEST_CASE("f16 round trip of every finite value") {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits)
    CHECK(to_f16(to_f32(f16{static_cast<uint16_t>(bits)})).bits == bits);
}

TEST_CASE("Philox4x32-10 equals the published vectors") {
  // Random123's known-answer file: zero counter and key; all ones.
  const auto zero = philox(0, static_cast<RngStream>(0), 0, 0);
  CHECK(zero == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const auto ones =
      philox(~uint64_t{0}, static_cast<RngStream>(~uint32_t{0}), ~uint64_t{0}, ~uint32_t{0});
  CHECK(ones == std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
}

TEST_CASE("SHA-256 and CRC32C equal published vectors") {
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(crc32c("123456789", 9) == 0xE3069283u);
  CHECK(crc32c("6789", 4, crc32c("12345", 5)) == 0xE3069283u);
}

// The linker's note lies in the file as it lies in memory.
TEST_CASE("the build ID is hex digits whose bytes stand in the program's own file") {
  const std::string& id = build_id();
  REQUIRE(id.size() >= 16);
  REQUIRE(id.find_first_not_of("0123456789abcdef") == std::string::npos);
  std::string bytes;
  for (size_t i = 0; i + 1 < id.size(); i += 2)
    bytes += static_cast<char>(std::stoi(id.substr(i, 2), nullptr, 16));
  const File file = File::open("/proc/self/exe");
  std::string program(static_cast<size_t>(file.size()), '\0');
  file.read_at(program.data(), file.size(), 0);
  CHECK(program.find(bytes) != std::string::npos);
}

TEST_CASE("a file that ends before what is read names its end") {
  const TempFolder folder("lema_short");
  write_file(folder.path() / "short", "123456");
  const File file = File::open(folder.path() / "short");
  char bytes[4];
  for (const int64_t offset : {4, 6, 9}) {
    const std::string message =
        message_of(ErrorCode::BadInput, [&] { file.read_at(bytes, 4, offset); });
    CHECK(contains(message, fmt::format("short: ends at byte 6, {} more bytes", offset - 2)));
  }
}

TEST_CASE("merged members replace those of their name where these stand, the last of equals wins") {
  Value value = Value::Object{{"a", 1}, {"b", 2}};
  value.merge({{"c", 3}, {"a", 4}, {"c", 5}});
  CHECK(value == Value(Value::Object{{"a", 4}, {"b", 2}, {"c", 5}}));
  Value none;
  none.merge({});
  CHECK(none == Value(Value::Object{}));
}

TEST_CASE("untrusted names print without control characters, C1 included") {
  CHECK(escaped("a\x1b[31m\x7f") == "a\\x1b[31m\\x7f");
  CHECK(escaped("\xc2\x9b" "31m \xc2\xa9 \xc3\xa9") == "\\x9b31m \xc2\xa9 \xc3\xa9");
}

TEST_CASE("a FIFO is refused, not waited for") {
  const TempFolder folder("core_fifo");
  const fs::path path = folder.path() / "pipe";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK_BAD_INPUT(File::open(path), "not a regular file");
}

TEST_CASE("byte units") {
  CHECK(parse_bytes("2.4 GB") == 2'400'000'000);
  CHECK(parse_bytes("2GiB") == int64_t{2} << 30);
  CHECK(parse_bytes("1048576") == 1048576);
  CHECK_FALSE(parse_bytes("2 gigs"));
  CHECK_FALSE(parse_bytes("-1"));
  CHECK(format_bytes(1536) == "1.5 KiB");
}

TEST_CASE("parallel_for runs each index once and passes exceptions on") {
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::atomic<int>> hits(17);
    pool.parallel_for(17, [&](int64_t i) { ++hits[static_cast<size_t>(i)]; });
    for (auto& h : hits) REQUIRE(h == 1);
  }
  CHECK_THROWS_AS(pool.parallel_for(5, [](int64_t i) { check(i != 3, "three"); }), Error);
  std::atomic<int> sum = 0;
  pool.parallel_for(4, [&](int64_t i) { sum += static_cast<int>(i); });
  CHECK(sum == 6);
}

// Ranges so short that workers come late: what a late one finds must not be run twice, nor with
// the wrong body. More threads than CPUs, too, which sleep where the others look.
TEST_CASE("parallel_for of ranges that end before every worker has come") {
  for (int threads : {2, 3, 4 * available_cpus()}) {
    ThreadPool pool(threads);
    for (int64_t round = 0; round < 3000; ++round) {
      const int64_t count = 2 + round % 7;
      std::vector<std::atomic<int64_t>> hits(static_cast<size_t>(count));
      pool.parallel_for(count, [&hits, round](int64_t i) {
        hits[static_cast<size_t>(i)] += round + 1;
      });
      for (auto& hit : hits) REQUIRE(hit == round + 1);
      if (round % 1000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
}

TEST_CASE("a staged folder appears whole or not at all") {
  const fs::path base = fs::temp_directory_path() / "lema_core_test";
  fs::remove_all(base);
  {
    const StagedFolder staged(base / "out");
    write_file(staged.path() / "a", "1");
  }
  CHECK(fs::is_empty(base));
  {
    StagedFolder staged(base / "out");
    write_file(staged.path() / "a", "1");
    staged.commit();
  }
  CHECK(read_text(base / "out" / "a", 10) == "1");
  CHECK_THROWS_AS(StagedFolder(base / "out"), Error);
  fs::remove_all(base);
}

TEST_CASE("a staged file appears whole or not at all, in the place of an older one") {
  const fs::path base = fs::temp_directory_path() / "lema_core_file_test";
  fs::remove_all(base);
  fs::create_directory(base);
  {
    const StagedFile staged(base / "a");
    File::create(staged.path()).write("new", 3);
  }
  CHECK(fs::is_empty(base));
  write_file(base / "a", "old");
  {
    StagedFile staged(base / "a");
    File::create(staged.path()).write("new", 3);
    CHECK(read_text(base / "a", 10) == "old");
    staged.commit();
  }
  CHECK(read_text(base / "a", 10) == "new");
  CHECK(std::distance(fs::directory_iterator(base), fs::directory_iterator()) == 1);
  CHECK_THROWS_AS(write_file(base / "none" / "a", "1"), Error);
  fs::remove_all(base);
}

TEST_CASE("a control group's cached file pages are free; the tightest group counts") {
  const TempFolder temp("core_groups");
  const fs::path root = temp.path() / "groups", inner = root / "outer" / "inner";
  create_folders(inner);
  const auto group = [](const fs::path& folder, const std::string& limit, int64_t used) {
    write_file(folder / "memory.max", limit + "\n");
    write_file(folder / "memory.current", fmt::format("{}\n", used));
  };
  const auto left = [&](const std::string& line) {
    write_file(root / "mine", line + "\n");
    return ControlGroups{root.string(), (root / "mine").string()}.memory_left();
  };
  CHECK(left("0::/outer/inner") == INT64_MAX);
  group(inner, "max", 700);
  group(root / "outer", "1000", 900);
  CHECK(left("0::/outer/inner") == 100);
  write_file(root / "outer" / "memory.stat", "anon 300\nactive_file 350\ninactive_file 200\n");
  CHECK(left("0::/outer/inner") == 650);
  group(inner, "720", 700);
  CHECK(left("0::/outer/inner") == 20);
  CHECK(left("0::/outer") == 650);
  CHECK(left("4:memory:/outer") == INT64_MAX);
}

TEST_CASE("a control group's quota of CPU time is rounded up to CPUs; the tightest group counts") {
  const TempFolder temp("core_quota");
  const fs::path root = temp.path() / "groups", inner = root / "outer" / "inner";
  create_folders(inner);
  write_file(root / "mine", "0::/outer/inner\n");
  const ControlGroups groups = {root.string(), (root / "mine").string()};
  CHECK(groups.cpus() == INT_MAX);
  write_file(inner / "cpu.max", "max 100000\n");
  CHECK(groups.cpus() == INT_MAX);
  write_file(root / "outer" / "cpu.max", "250000 100000\n");
  CHECK(groups.cpus() == 3);
  write_file(inner / "cpu.max", "5000 100000\n");
  CHECK(groups.cpus() == 1);
}

// Mapped files that are cut while they are mapped, and files that change while they are open.
#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "support/catch.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

using namespace lema;

namespace {

constexpr int64_t kPages = 5 * 4096;

fs::path write_pages(const TempFolder& folder) {
  const fs::path path = folder.path() / "pages";
  write_file(path, std::string(kPages, 'x'));
  return path;
}

void set_mtime(const fs::path& path, int64_t nanoseconds) {
  const timespec times[2] = {{0, UTIME_OMIT}, {1'700'000'000, nanoseconds}};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
}

}  // namespace

TEST_CASE("a file cut under its mapping reads as zeros and is told of") {
  const TempFolder folder("lema_mapped_file");
  const fs::path path = write_pages(folder);
  const MappedFile whole(path);
  MappedFile moved(path);
  const MappedFile cut(std::move(moved));
  fs::resize_file(path, 4096);
  const auto at = [](const MappedFile& file, int64_t i) {
    return static_cast<int>(file.data()[i]);
  };
  CHECK(at(cut, 17) == 'x');
  CHECK_FALSE(cut.has_fault());
  // On another thread, as kernels read.
  std::thread([&] { CHECK(at(cut, 3 * 4096 + 5) == 0); }).join();
  CHECK(cut.has_fault());
  CHECK(at(cut, kPages - 1) == 0);
  CHECK_FALSE(whole.has_fault());  // nobody has read it there
  CHECK(at(whole, 4096) == 0);
  CHECK(whole.has_fault());
}

TEST_CASE("a mapping is of the file that was opened, whatever the path names meanwhile") {
  const TempFolder folder("lema_mapped_file");
  const fs::path path = write_pages(folder);
  const File file = File::open(path);
  write_file(path, "another");
  const MappedFile map(file);
  CHECK(map.size() == kPages);
  CHECK(static_cast<int>(map.data()[kPages - 1]) == 'x');
  file.check_unchanged();
}

TEST_CASE("a file that changes while it is open is told of") {
  const TempFolder folder("lema_mapped_file");
  const fs::path path = write_pages(folder);
  set_mtime(path, 1);
  const File file = File::open(path);
  file.check_unchanged();
  set_mtime(path, 2);
  CHECK(contains(message_of(ErrorCode::BadInput, [&] { file.check_unchanged(); }),
                 "pages: was written to"));
  fs::resize_file(path, 100);
  CHECK(contains(message_of(ErrorCode::BadInput, [&] { file.check_unchanged(); }),
                 "has 100 bytes and had 20480"));
}

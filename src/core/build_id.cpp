// The note is in memory with the program: nothing is read. Called by machine_rates and
// dataset_cache.
#include "core/build_id.h"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>

#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/hash.h"

namespace lema {
namespace {

uint64_t padded(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// The build ID among the notes of a segment; empty: none.
std::string_view build_id_in(const char* notes, uint64_t bytes, uint64_t alignment) {
  constexpr std::string_view kOwner{"GNU\0", 4};
  ElfW(Nhdr) note;
  for (uint64_t at = 0; at + sizeof note <= bytes;) {
    std::memcpy(&note, notes + at, sizeof note);
    const uint64_t name = at + sizeof note;
    const uint64_t value = padded(name + note.n_namesz, alignment);
    if (note.n_type == NT_GNU_BUILD_ID && kOwner == std::string_view(notes + name, note.n_namesz))
      return {notes + value, note.n_descsz};
    at = padded(value + note.n_descsz, alignment);
  }
  return {};
}

// The program itself is the first object that the dynamic linker names. Through that, which is C,
// nothing may be thrown: nothing here takes memory.
int read_first(dl_phdr_info* program, size_t, void* id) noexcept {
  for (int i = 0; i < program->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = program->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const auto* notes = reinterpret_cast<const char*>(program->dlpi_addr + segment.p_vaddr);
    const auto found = build_id_in(notes, segment.p_memsz, segment.p_align == 8 ? 8 : 4);
    if (!found.empty()) *static_cast<std::string_view*>(id) = found;
  }
  return 1;
}

}  // namespace

const std::string& build_id() {
  static const std::string id = [] {
    std::string_view bytes;
    dl_iterate_phdr(read_first, &bytes);
    std::string hex;
    for (const char byte : bytes) hex += fmt::format("{:02x}", static_cast<uint8_t>(byte));
    return hex.empty() ? sha256_file("/proc/self/exe") : hex;
  }();
  return id;
}

}  // namespace lema

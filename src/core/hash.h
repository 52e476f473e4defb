// Checksums: SHA-256 identifies input files, CRC32C guards checkpoint files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace lema {

class File;

// Lower-case hex of the SHA-256 of a buffer or of a whole file. `report` is called with the bytes
// of every chunk read and may throw.
std::string sha256(std::string_view bytes);
std::string sha256_file(const std::filesystem::path& path,
                        const std::function<void(int64_t)>& report = {});

// CRC-32C (Castagnoli, reflected, as in iSCSI); `crc` continues an earlier call.
uint32_t crc32c(const void* data, int64_t bytes, uint32_t crc = 0);
uint32_t crc32c_file(const std::filesystem::path& path);
uint32_t crc32c_file(const File& file, const std::function<void(int64_t)>& report = {});

}  // namespace lema

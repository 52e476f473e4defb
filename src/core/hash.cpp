// SHA-256 by OpenSSL; CRC32C by the SSE4.2 instruction where the CPU has it, else by table.
#include "core/hash.h"

// The functions that take no memory: those of EVP crash where there is none left.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace lema {
namespace {

constexpr int64_t kChunkBytes = 128 << 10;  // read beside a run whose memory is counted

class Sha256 {
 public:
  Sha256() { SHA256_Init(&context_); }
  void update(const void* data, size_t bytes) { SHA256_Update(&context_, data, bytes); }
  std::string hex() {
    std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
    SHA256_Final(digest.data(), &context_);
    std::string out;
    for (unsigned char byte : digest) out += fmt::format("{:02x}", byte);
    return out;
  }

 private:
  SHA256_CTX context_;
};

// Calls visit(data, bytes) for the whole file, chunk by chunk.
template <typename Visit>
void for_each_chunk(const File& file, Visit visit) {
  std::vector<char> chunk(static_cast<size_t>(kChunkBytes));
  const int64_t size = file.size();
  for (int64_t offset = 0; offset < size; offset += kChunkBytes) {
    const int64_t bytes = std::min(kChunkBytes, size - offset);
    file.read_at(chunk.data(), bytes, offset);
    visit(chunk.data(), bytes);
  }
}

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = (c >> 1) ^ ((c & 1) ? 0x82F63B78u : 0u);
    table[i] = c;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

uint32_t crc32c_table(const uint8_t* p, int64_t bytes, uint32_t crc) {
  for (int64_t i = 0; i < bytes; ++i) crc = (crc >> 8) ^ kCrcTable[(crc ^ p[i]) & 0xff];
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t crc32c_sse42(const uint8_t* p, int64_t bytes,
                                                        uint32_t crc) {
  uint64_t c = crc;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    c = __builtin_ia32_crc32di(c, word);
  }
  for (; bytes > 0; --bytes, ++p) c = __builtin_ia32_crc32qi(static_cast<uint32_t>(c), *p);
  return static_cast<uint32_t>(c);
}
#endif

}  // namespace

std::string sha256(std::string_view bytes) {
  Sha256 digest;
  digest.update(bytes.data(), bytes.size());
  return digest.hex();
}

std::string sha256_file(const std::filesystem::path& path,
                        const std::function<void(int64_t)>& report) {
  Sha256 digest;
  for_each_chunk(File::open(path), [&](const char* data, int64_t bytes) {
    digest.update(data, static_cast<size_t>(bytes));
    if (report) report(bytes);
  });
  return digest.hex();
}

uint32_t crc32c(const void* data, int64_t bytes, uint32_t crc) {
  const auto* p = static_cast<const uint8_t*>(data);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return ~crc32c_sse42(p, bytes, ~crc);
#endif
  return ~crc32c_table(p, bytes, ~crc);
}

uint32_t crc32c_file(const std::filesystem::path& path) { return crc32c_file(File::open(path)); }

uint32_t crc32c_file(const File& file, const std::function<void(int64_t)>& report) {
  uint32_t crc = 0;
  for_each_chunk(file, [&](const char* data, int64_t bytes) {
    crc = crc32c(data, bytes, crc);
    if (report) report(bytes);
  });
  return crc;
}

}  // namespace lema

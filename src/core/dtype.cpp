// The dtype table: safetensors name and width, in the order of the enumeration.
#include "core/dtype.h"

#include <array>

#include "core/error.h"

namespace lema {
namespace {

struct DTypeRow {
  std::string_view name;
  int bits;
};

constexpr std::array<DTypeRow, 22> kRows = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

}  // namespace

int bits(DType dtype) { return kRows[static_cast<size_t>(dtype)].bits; }

std::string_view name(DType dtype) { return kRows[static_cast<size_t>(dtype)].name; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (size_t i = 0; i < kRows.size(); ++i)
    if (kRows[i].name == name) return static_cast<DType>(i);
  return std::nullopt;
}

int64_t whole_bytes(DType dtype) {
  check(bits(dtype) % 8 == 0, "element_bytes of sub-byte dtype {}", name(dtype));
  return bits(dtype) / 8;
}

}  // namespace lema

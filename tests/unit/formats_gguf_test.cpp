// GGUF: metadata, dequantisation against values worked out by hand, and one malformed file for each
// way to be wrong.
#include <cmath>
#include <limits>

#include "core/dtype.h"
#include "formats/gguf.h"
#include "support/gguf_builder.h"
#include "support/temp_folder.h"

using namespace lema;
using B = GgufBuilder;

namespace {

GgufFile open(const TempFolder& folder, const std::string& bytes) {
  return GgufFile(folder.file("a.gguf", bytes));
}

std::string half(float x) { return B::raw(to_f16(x).bits); }

// One row of 64 values (two blocks, of which `block` is the second) as f32; the first block has
// scale 0.
std::vector<float> dequantised(const TempFolder& folder, uint32_t type, const std::string& block,
                               uint64_t values = 32) {
  B builder;
  builder.tensor("t", {2 * values}, type, std::string(block.size(), '\0') + block);
  const GgufFile file = open(folder, builder.bytes());
  std::vector<float> all(2 * values), second(values);
  const GgufTensor& tensor = file.tensors().at(0);
  file.read(tensor, 0, std::ssize(all), all.data());
  file.read(tensor, static_cast<int64_t>(values), static_cast<int64_t>(values), second.data());
  CHECK(std::vector<float>(all.begin() + static_cast<int64_t>(values), all.end()) == second);
  return second;
}

// 16 bytes whose low nibbles count 0, 1, ... 15 and whose high nibbles count down.
std::string nibbles() {
  std::string bytes;
  for (int i = 0; i < 16; ++i) bytes += static_cast<char>(i | (15 - i) << 4);
  return bytes;
}

}  // namespace

TEST_CASE("metadata of every kind") {
  const TempFolder folder("gguf_metadata");
  B builder;
  builder.key("u8", B::U8, B::raw(uint8_t{200})).key("i8", B::I8, B::raw(int8_t{-3}));
  builder.key("u16", B::U16, B::raw(uint16_t{60000})).key("i16", B::I16, B::raw(int16_t{-300}));
  builder.u32("u32", 4000000000u).key("i32", B::I32, B::raw(int32_t{-70000}));
  builder.key("u64", B::U64, B::raw(uint64_t{1} << 62)).key("i64", B::I64, B::raw(int64_t{-5}));
  builder.f32("f32", 1e-5f)
      .key("f64", B::F64, B::raw(0.1))
      .boolean("bool", true)
      .string("string", "gr\xc3\xbc\xc3\x9f");
  builder.strings("strings", {"a", ""}).ints("ints", {}).floats("t", {3, 2}, {1, 2, 3, 4, 5, 6});
  for (const uint32_t version : {2u, 3u}) {
    builder.version = version;
    const GgufFile file = open(folder, builder.bytes());
    CHECK(file.version() == version);
    const auto is = [&](std::string_view key, const Value& value) {
      INFO(key);
      const Value* found = file.metadata().find(key);
      CHECK((found != nullptr && *found == value));
    };
    is("u8", 200), is("i8", -3), is("u16", 60000), is("i16", -300), is("i32", -70000),
        is("i64", -5);
    is("u32", int64_t{4000000000}), is("u64", int64_t{1} << 62), is("f64", 0.1), is("bool", true);
    is("f32", 1e-5);  // the shortest decimal of the float, not its exact value
    is("string", "gr\xc3\xbc\xc3\x9f"), is("strings", Value::Array{"a", ""}),
        is("ints", Value::Array{});
    REQUIRE(file.find("t") != nullptr);
    CHECK(file.find("t")->shape == Shape{2, 3});
    std::vector<float> row(3);
    file.read(*file.find("t"), 3, 3, row.data());
    CHECK(row == std::vector<float>{4, 5, 6});
  }
}

TEST_CASE("infinities and NaN as metadata are refused by their key") {
  const TempFolder folder("gguf_not_finite");
  for (const float x : {INFINITY, -INFINITY, NAN, -NAN}) {
    CHECK_BAD_INPUT(open(folder, B().f32("a.b", x).bytes()), "key a.b: found ");
    CHECK_BAD_INPUT(open(folder, B().key("c", B::F64, B::raw(double{x})).bytes()), "key c: found ");
  }
}

TEST_CASE("dequantisation of each type, by hand") {
  const TempFolder folder("gguf_types");
  const std::vector<float> q8 =
      dequantised(folder, 8, half(0.5f) + "\x80\x7f\xff" + std::string(28, '\0') + "\x02");
  CHECK((q8[0] == -64 && q8[1] == 63.5f && q8[2] == -0.5f && q8[3] == 0 && q8[31] == 1));

  const std::vector<float> q4_0 = dequantised(folder, 2, half(-2) + nibbles());
  CHECK((q4_0[0] == 16 && q4_0[15] == -14 && q4_0[16] == -14 && q4_0[31] == 16));
  CHECK((q4_0[8] == 0 && std::signbit(q4_0[8])));  // -2 * 0 keeps the sign, as in the reference

  const std::vector<float> q4_1 = dequantised(folder, 3, half(0.25f) + half(-1) + nibbles());
  CHECK((q4_1[0] == -1 && q4_1[15] == 2.75f && q4_1[16] == 2.75f && q4_1[17] == 2.5f));

  // Fifth bits of values 0, 15 and 31.
  const std::string fifth = B::raw((1u << 0) | (1u << 15) | (1u << 31));
  const std::vector<float> q5_0 = dequantised(folder, 6, half(1) + fifth + nibbles());
  CHECK((q5_0[0] == 0 && q5_0[1] == -15 && q5_0[15] == 15 && q5_0[16] == -1 && q5_0[31] == 0));
  const std::vector<float> q5_1 = dequantised(folder, 7, half(2) + half(0.5f) + fifth + nibbles());
  CHECK((q5_1[0] == 32.5f && q5_1[1] == 2.5f && q5_1[15] == 62.5f && q5_1[16] == 30.5f &&
         q5_1[31] == 32.5f));

  CHECK(dequantised(folder, 1, half(-6e-8f), 1)[0] == to_f32(to_f16(-6e-8f)));  // a denormal
  CHECK(dequantised(folder, 30, B::raw(to_bf16(3.140625f).bits), 1)[0] == 3.140625f);
  CHECK(dequantised(folder, 0, B::raw(1e-45f), 1)[0] == 1e-45f);
  CHECK(std::isinf(dequantised(folder, 3, half(INFINITY) + half(0) + std::string(16, '\x11'))[0]));
}

TEST_CASE("dequantisation of each K-quant, by hand") {
  const TempFolder folder("gguf_k_types");
  const auto decoded = [&](uint32_t type, const std::string& block) {
    return dequantised(folder, type, block, 256);
  };
  const auto bytes = [](size_t n, int value) { return std::string(n, static_cast<char>(value)); };

  // Scales of 3 (less a minimum of 5) but for the last sub-block's 15 (2); quants 3, 2, 1, 0.
  const std::string q2_scales = bytes(15, 0x53) + bytes(1, 0x2f);
  const std::vector<float> q2 = decoded(10, q2_scales + bytes(64, 0x1b) + half(0.5f) + half(2));
  CHECK((q2[0] == -5.5f && q2[32] == -7 && q2[64] == -8.5f && q2[96] == -10 && q2[128] == -5.5f));
  CHECK((q2[223] == -8.5f && q2[239] == -10 && q2[240] == -4));

  // Scales 0x21 - 32 = 1, the third bits of sub-blocks 0 and 1 alone set.
  const std::string q3_scales = bytes(8, 0x11) + bytes(4, 0xaa);
  const std::vector<float> q3 =
      decoded(11, bytes(32, 0x01) + bytes(64, 0x1b) + q3_scales + half(-2));
  CHECK((q3[0] == -6 && q3[31] == -6 && q3[32] == 4 && q3[64] == 6 && q3[96] == 8));
  CHECK((q3[128] == 2 && q3[255] == 8));

  // Scales 1 ... 4 and minima 4 ... 1 whole; the last four have their high bits with them.
  const std::string scales("\x41\x82\xc3\x04\x44\x03\x82\xc1\x15\x26\x37\x48", 12);
  const std::vector<float> q4 = decoded(12, half(2) + half(1) + scales + bytes(128, 0x52));
  CHECK((q4[0] == 2 * 1 * 2 - 4 && q4[32] == 2 * 2 * 5 - 3 && q4[64] == 2 * 3 * 2 - 2));
  CHECK((q4[128] == 2 * (5 + 16) * 2 - (1 + 16) && q4[160] == 2 * (6 + 32) * 5 - 2));
  CHECK((q4[192] == 2 * (7 + 48) * 2 - (3 + 32) && q4[255] == 2 * 8 * 5 - (4 + 48)));
  const std::vector<float> q5 =
      decoded(13, half(2) + half(1) + scales + bytes(32, 0x82) + bytes(128, 0x52));
  CHECK((q5[0] == q4[0] && q5[32] == 2 * 2 * (5 + 16) - 3 && q5[255] == 2 * 8 * (5 + 16) - 52));

  const std::string q6_scales = bytes(15, -128) + bytes(1, 3);
  const std::vector<float> q6 =
      decoded(14, bytes(128, 0x52) + bytes(64, 0xe4) + q6_scales + half(-0.5f));
  CHECK((q6[0] == 64 * -30 && q6[32] == 64 * (2 + 16 - 32) && q6[64] == 64 * (5 + 32 - 32)));
  CHECK((q6[96] == 64 * (5 + 48 - 32) && q6[128] == q6[0] && q6[255] == -1.5f * (5 + 48 - 32)));
}

TEST_CASE("types that are not decoded are named when read, with their place") {
  const TempFolder folder("gguf_unsupported");
  B builder;
  builder.tensor("blk.0.x", {256}, 16, std::string(66, '\0'));
  const GgufFile file = open(folder, builder.bytes());
  CHECK(file.tensors()[0].bytes == 66);
  std::vector<float> out(256);
  CHECK_BAD_INPUT(file.read(file.tensors()[0], 0, 256, out.data()),
                  "a.gguf: tensor blk.0.x is IQ2_XXS; supported: F32, F16");
}

TEST_CASE("malformed headers") {
  const TempFolder folder("gguf_header");
  const auto refused = [&](const std::string& bytes, std::string_view text) {
    CHECK_BAD_INPUT(open(folder, bytes), text);
  };
  const std::string good = B().u32("k", 1).floats("t", {2}, {1, 2}).bytes();
  CHECK_NOTHROW(open(folder, good));
  refused("", "0 bytes, too short");
  refused("GGUF", "too short");
  refused("version https://git-lfs.github.com/spec/v1", "git-lfs pointer");
  refused("<!DOCTYPE html> an error page", "not a GGUF file");
  for (size_t length = 24; length < good.size() - 24; ++length)  // the last 24 bytes are padding
    refused(good.substr(0, length), "a.gguf: ");
  B builder;
  builder.version = 1;
  refused(builder.bytes(), "version 1 is not supported");
  builder.version = 0x03000000;
  refused(builder.bytes(), "big-endian");
  builder.version = 3;
  for (const uint64_t count : {uint64_t{1}, uint64_t{1} << 60, ~uint64_t{0}}) {
    builder.key_count = count;
    refused(builder.bytes(), "the key count is");
  }
  builder.key_count = 0;
  for (const uint64_t count : {uint64_t{1}, uint64_t{1} << 60, ~uint64_t{0}}) {
    builder.tensor_count = count;
    refused(builder.bytes(), "tensors, at most 0 can follow");
  }
}

TEST_CASE("malformed key-values") {
  const TempFolder folder("gguf_keys");
  const auto refused = [&](const B& builder, std::string_view text) {
    CHECK_BAD_INPUT(open(folder, builder.bytes() + std::string(64, '\0')), text);
  };
  const auto array = [](uint32_t kind, uint64_t count) { return B::raw(kind) + B::raw(count); };
  refused(B().u32("k", 1).u32("k", 2), "duplicate key k");
  refused(B().key("k", 13, ""), "value type 13 is unknown");
  refused(B().key("k", B::Bool, B::raw(uint8_t{2})), "boolean 2 is neither 0 nor 1");
  refused(B().key("k", B::U64, B::raw(~uint64_t{0})), "key k is 18446744073709551615");
  refused(B().key("k", B::String, B::raw(uint64_t{1} << 40)), "a string value is 1099511627776");
  refused(B().key("k", B::String, B::raw(~uint64_t{0})), "a string value is 18446744073709551615");
  refused(B().key("k", B::String, B::raw(uint64_t{1000})), "a string value of 1000 bytes");
  refused(B().key("k", B::String, B::text("\xff")), "a string value is not UTF-8");
  refused(B().key("k", B::String, B::text("\xc0\x80")), "is not UTF-8");      // overlong
  refused(B().key("k", B::String, B::text("\xed\xa0\x80")), "is not UTF-8");  // surrogate
  refused(B().key("k\x1b[2J", 13, ""), "key k\\x1b[2J");                      // names print escaped
  refused(B().key("k", B::Array, array(B::Array, 1) + array(B::U8, 0)), "arrays of arrays");
  refused(B().key("k", B::Array, array(99, 1)), "value type 99 is unknown");
  for (const uint64_t count : {uint64_t{65}, uint64_t{1} << 61, ~uint64_t{0}})
    refused(B().key("k", B::Array, array(B::U8, count)), "array length of k is");
  refused(B().key("k", B::Array, array(B::String, 9)), "array length of k is 9, at most 8");
  refused(B().key("k", B::Array, array(B::Bool, 1) + "\x07"), "boolean 7");
  refused(B().key(std::string(70000, 'k'), B::U8, "\1"), "length of a key is 70000");
  for (const uint32_t align : {0u, 3u, 48u, 0x80000000u})
    refused(B().u32("general.alignment", align), "general.alignment is not a power of two");
  refused(B().string("general.alignment", "32"), "general.alignment is not a power of two");
  CHECK_NOTHROW(open(folder, B().u32("general.alignment", 8).bytes()));
}

TEST_CASE("malformed tensor tables") {
  const TempFolder folder("gguf_tensors");
  const auto refused = [&](const B& builder, std::string_view text) {
    CHECK_BAD_INPUT(open(folder, builder.bytes() + std::string(256, '\0')), text);
  };
  const uint64_t big = uint64_t{1} << 62;
  refused(B().entry("t", {2}, 0, 0).entry("t", {2}, 0, 32), "duplicate tensor t");
  refused(B().entry(std::string(65, 't'), {2}, 0, 0), "length of a tensor name is 65, at most 64");
  refused(B().entry("t", {}, 0, 0), "tensor t: 0 dimensions, expected 1 to 4");
  refused(B().entry("t", {1, 1, 1, 1, 1}, 0, 0), "tensor t: 5 dimensions");
  refused(B().entry("t", {2, 0}, 0, 0), "tensor t: dimension 0");
  refused(B().entry("t", {~uint64_t{0}}, 0, 0), "a dimension is 18446744073709551615");
  refused(B().entry("t", {big, 4}, 0, 0), "number of values overflows");
  refused(B().entry("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0),
          "number of values overflows");
  refused(B().entry("t", {big}, 0, 0), "number of bytes overflows");
  refused(B().entry("t", {4}, 99, 0), "type 99 is unknown");
  refused(B().entry("t", {4}, 4, 0), "type 4 is unknown");  // a removed type has no block size
  refused(B().entry("t", {33}, 2, 0), "rows of 33 values are not whole Q4_0 blocks of 32");
  refused(B().entry("t", {2}, 0, 8), "offset 8 is not a multiple of 32");
  refused(B().entry("t", {2}, 0, uint64_t{1} << 63), "offset of tensor t is 9223372036854775808");
  refused(B().entry("t", {2}, 0, (uint64_t{1} << 63) - 32), "end beyond the file");
  refused(B().entry("t", {2}, 0, 4096), "8 bytes at offset 4096 end beyond the file");
  refused(B().entry("t", {uint64_t{1} << 40}, 0, 0), "end beyond the file");
  refused(B().entry("a", {16}, 0, 0).entry("b", {2}, 0, 32), "tensors a and b overlap");
  refused(B().entry("a", {2}, 0, 0).entry("b", {2}, 0, 0), "overlap");
}

TEST_CASE("data that ends early") {
  const TempFolder folder("gguf_data");
  const std::string good = B().floats("t", {8}, {1, 2, 3, 4, 5, 6, 7, 8}).bytes();
  CHECK_NOTHROW(open(folder, good));
  CHECK_BAD_INPUT(open(folder, good.substr(0, good.size() - 1)),
                  "32 bytes at offset 0 end beyond the file");
}

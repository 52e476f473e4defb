// Malformed safetensors by classes of recorded faults: cases beyond those of
// tests/unit/formats_safetensors_test.cpp, which has the format's own rules one by one.
#include "formats/safetensors.h"

#include "support/malformed.h"
#include "support/temp_folder.h"

using namespace lema;

namespace {

std::string with_length(uint64_t length, std::string_view rest) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + std::string(rest);
}
std::string file_of(std::string_view header, size_t data_bytes = 0) {
  return with_length(header.size(), header) + std::string(data_bytes, '\0');
}
std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                  std::string_view offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                     offsets);
}
std::string one(std::string_view dtype, std::string_view shape, std::string_view offsets,
                size_t data_bytes) {
  return file_of("{" + entry("a", dtype, shape, offsets) + "}", data_bytes);
}

void expect(const std::vector<Malformed>& cases) {
  const TempFolder folder("malformed_safetensors");
  expect_refused(cases, "m.safetensors", [&](const std::string& bytes) {
    SafetensorsFile{folder.file("m.safetensors", bytes)};
  });
}

}  // namespace

TEST_CASE("lengths and sizes that wrap") {
  std::vector<Malformed> cases;
  // CVE-2024-23496, CVE-2025-53630, CVE-2026-27940: a length whose sum with something wraps.
  for (const uint64_t length :
       {~uint64_t{0}, ~uint64_t{0} - 7, ~uint64_t{0} - 8, uint64_t{1} << 63,
        (uint64_t{1} << 63) - 8, uint64_t{1} << 32, (uint64_t{1} << 32) + 2})
    cases.push_back({fmt::format("a header of {} bytes", length), with_length(length, "{}"),
                     fmt::format("header of {} bytes, at most", length)});
  for (const uint64_t missing : {uint64_t{1}, uint64_t{7}, uint64_t{8}})
    cases.push_back({fmt::format("a header that ends {} bytes behind the file", missing),
                     with_length(40 + missing, std::string(40, ' ')), "but only 40 follow"});
  // CVE-2024-21825, CVE-2024-21836, CVE-2024-23605, CVE-2026-33298: a product of sizes that wraps.
  for (const char* shape :
       {"[4294967296,4294967296]", "[65536,65536,65536,65536]", "[2147483648,2147483648,4]",
        "[3037000500,3037000500]", "[1152921504606846976]",
        "[9223372036854775807,9223372036854775807]", "[9223372036854775807,2,0]"})
    cases.push_back({std::string("the shape ") + shape, one("F64", shape, "[0,8]", 8),
                     "has no whole 63-bit number of bytes"});
  // CVE-2026-7482: a range beyond the file, which would hand out memory that is not the tensor's.
  for (const char* offsets : {"[0,1048576]", "[0,4294967304]"})
    cases.push_back(
        {std::string("the range ") + offsets, one("U8", "[8]", offsets, 8), "bytes, but U8"});
  cases.push_back({"a tensor behind the end", one("U8", "[8]", "[8,16]", 8), "a hole of 8 bytes"});
  cases.push_back({"a tensor far behind the end",
                   one("U8", "[8]", "[9223372036854775799,9223372036854775807]", 8),
                   "a hole of 9223372036854775799 bytes"});
  // CVE-2025-49847, CVE-2025-52566: signs and narrowing.
  for (const char* number : {"-1", "-9223372036854775808"}) {
    cases.push_back({std::string("the dimension ") + number,
                     one("U8", fmt::format("[{}]", number), "[0,8]", 8), "is negative"});
    cases.push_back({std::string("the offset ") + number,
                     one("U8", "[8]", fmt::format("[{},8]", number), 8), "is negative"});
  }
  cases.push_back({"a dimension of 2^32 + 8", one("U8", "[4294967304]", "[0,8]", 8),
                   "8 bytes, but U8 of shape [4294967304] takes 4294967304"});
  // CVE-2024-21802: the number of dimensions.
  for (const int rank : {9, 64, 100'000})
    cases.push_back({fmt::format("{} dimensions", rank),
                     one("U8", "[" + repeat("1,", rank - 1) + "1]", "[0,1]", 1),
                     "dimensions, at most 8"});
  expect(cases);
}

TEST_CASE("values of another type than the reader expects") {
  std::vector<Malformed> cases;
  for (const char* value : {"null", "true", "1", "1.5", "\"a\"", "[]", "[[]]"})
    cases.push_back({std::string("a tensor that is ") + value,
                     file_of(fmt::format("{{\"a\":{}}}", value)), "tensor a: found"});
  for (const char* value : {"null", "true", "1.0", "\"1\"", "[1]", "{}"}) {
    cases.push_back({std::string("a dimension that is ") + value,
                     one("U8", fmt::format("[{}]", value), "[0,1]", 1), "tensor a: shape: found"});
    cases.push_back({std::string("an offset that is ") + value,
                     one("U8", "[1]", fmt::format("[0,{}]", value), 1),
                     "tensor a: data_offsets: found"});
  }
  for (const char* dtype : {"", "F32 ", "F32\\u0000", "float32", "U128", "F8", "\xce\xb1"})
    cases.push_back(
        {std::string("the dtype ") + dtype, one(dtype, "[1]", "[0,4]", 4), "unknown dtype"});
  for (const char* value : {"1", "[]", "\"pt\"", "null"})
    cases.push_back({std::string("metadata that is ") + value,
                     file_of(fmt::format("{{\"__metadata__\":{}}}", value)),
                     "__metadata__: found"});
  for (const char* value : {"1", "null", "{}", "[\"a\"]", "true"})
    cases.push_back({std::string("a metadata value that is ") + value,
                     file_of(fmt::format("{{\"__metadata__\":{{\"k\\n\":{}}}}}", value)),
                     "__metadata__ \"k\\x0a\": found"});
  expect(cases);
}

TEST_CASE("names and texts that would reach the terminal") {
  std::vector<Malformed> cases;
  for (const char* name :
       {"\\u001b[2J", "\\u001b]0;x\\u0007", "\\r", "\\n\\n", "\\u0000", "\\u007f", "\\u0008\\u0008",
        "\xc2\x9b"
        "31m"})
    cases.push_back({std::string("the name ") + name,
                     file_of("{" + entry(name, "Q4", "[1]", "[0,1]") + "}", 1),
                     "unknown dtype \"Q4\""});
  cases.push_back({"a name of 1 MB",
                   file_of("{" + entry(repeat("n", 1 << 20), "U8", "[1]", "[0,1]") + "}", 1),
                   "name of 1048576 bytes, at most 1024"});
  cases.push_back(
      {"a dtype of 1 MB", one(repeat("F", 1 << 20), "[1]", "[0,1]", 1), "unknown dtype"});
  expect(cases);
}

TEST_CASE("files that another program left") {
  const std::vector<Malformed> cases = {
      {"a pickle", std::string("\x80\x02}q\x00.", 6) + std::string(64, 'x'), "header of"},
      {"a zip archive (pytorch_model.bin)", "PK\x03\x04" + std::string(64, '\0'),
       "m.safetensors: "},
      {"gzip", "\x1f\x8b\x08" + std::string(64, '\x11'), "header of"},
      {"a numpy file", "\x93NUMPY\x01" + std::string(64, ' '), "header of"},
      {"JSON without a length", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       "header of"},
      {"zeros", std::string(4096, '\0'), "header:1:1: "},
      {"blanks", std::string(4096, ' '), "header of"},
      {"a web page in capitals", "<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01//EN\">",
       "an HTML page"},
      {"a git-lfs pointer with CRLF", "version https://git-lfs.github.com/spec/v1\r\nsize 1\r\n",
       "git-LFS"},
      {"a big-endian length", std::string("\0\0\0\0\0\0\0\2{}", 10), "header of"},
      {"a download cut in the length", std::string("\2\0\0", 3), "3 bytes"},
      {"a download cut in the header", with_length(1000, "{\"a\":{"), "only 6 follow"},
      {"a download cut in the data", one("F32", "[1024]", "[0,4096]", 4095),
       "the file is cut short"},
  };
  expect(cases);
}

TEST_CASE("headers that are made to cost") {
  std::string many = "{";
  for (int i = 0; i < 300'000; ++i) many += fmt::format("{}\"{}\":{{}}", i ? "," : "", i);
  std::string metadata = "{\"__metadata__\":{";
  for (int i = 0; i < 300'000; ++i) metadata += fmt::format("{}\"{}\":1", i ? "," : "", i);
  const std::vector<Malformed> cases = {
      {"a million brackets", file_of("{\"a\":" + repeat("[", 1'000'000)), "deeper than 64"},
      {"300,000 empty tensors", file_of(many + "}"), "no dtype"},
      {"300,000 numbers as metadata", file_of(metadata + "}}"), "found integer"},
      {"20 MB of blanks", file_of(std::string(20 << 20, ' ')), "header:1:"},
      {"the same tensor 100,000 times",
       file_of("{" + repeat(entry("a", "U8", "[0]", "[0,0]") + ",", 100'000) + "\"b\":1}"),
       "duplicate key"},
  };
  expect(cases);
}

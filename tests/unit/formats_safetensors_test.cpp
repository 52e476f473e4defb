// The safetensors container: every malformed case by name with its message, what must be accepted,
// and write-read identity.
#include <unistd.h>

#include <cstring>

#include "core/error.h"
#include "formats/safetensors.h"
#include "support/catch.h"

using namespace lema;

namespace {

// A folder of this test's own, removed at the end.
struct Folder {
  explicit Folder(std::string_view name)
      : path(fs::temp_directory_path() / fmt::format("lema_safetensors_{}_{}", name, ::getpid())) {
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

std::string with_length(uint64_t length, std::string_view rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + std::string(rest);
}

// A file with this header and that many zero bytes of data.
std::string file_of(std::string_view header, size_t data_bytes = 0) {
  return with_length(header.size(), header) + std::string(data_bytes, '\0');
}

SafetensorsFile open_bytes(std::string_view bytes) {
  static const Folder folder("read");
  write_file(folder.path / "m.safetensors", bytes);
  return SafetensorsFile(folder.path / "m.safetensors");
}

std::string error_of(std::string_view bytes) {
  try {
    open_bytes(bytes);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::BadInput);
    const std::string message = e.what();
    const size_t name = message.find("m.safetensors: ");
    CHECK(name != std::string::npos);
    return name == std::string::npos ? message : message.substr(name + 15);
  }
  return "accepted";
}

std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                  std::string_view offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                     offsets);
}

std::string many_on_one_region(int count) {
  std::string header = "{";
  for (int i = 0; i < count; ++i) {
    if (i > 0) header += ',';
    header += entry(std::to_string(i), "U8", "[4]", "[0,4]");
  }
  return header + "}";
}

struct Case {
  std::string name, bytes, message;
};

void expect_refused(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const std::string message = error_of(c.bytes);
    INFO(c.name << ": " << message);
    CHECK(message.find(c.message) != std::string::npos);
    CHECK(message.size() < 800);
    for (const char x : message) CHECK((static_cast<unsigned char>(x) >= 0x20 && x != 0x7f));
  }
}

const std::string kTwo =
    "{" + entry("a", "F32", "[2,3]", "[0,24]") + "," + entry("b", "U8", "[5]", "[24,29]") + "}";

}  // namespace

TEST_CASE("lengths that do not fit the file are refused before anything is allocated") {
  expect_refused({
      {"empty file", "", "0 bytes; a safetensors file has at least 8"},
      {"7 bytes", "1234567", "7 bytes; a safetensors file has at least 8"},
      {"length without header", with_length(20, ""), "header of 20 bytes, but only 0 follow"},
      {"header cut short", with_length(20, "{\"a\":"), "header of 20 bytes, but only 5 follow"},
      {"header short of one byte", with_length(20, std::string(19, ' ')),
       "header of 20 bytes, but only 19 follow"},
      {"length 1000 on a small file", with_length(1000, "{}"),
       "header of 1000 bytes, but only 2 follow"},
      {"above 100 MB", with_length(100'000'001, "{}"),
       "header of 100000001 bytes, at most 100000000"},
      {"100 MB, small file", with_length(100'000'000, "{}"),
       "header of 100000000 bytes, but only 2 follow"},
      {"high bytes 0xFF", with_length(~uint64_t{0}, "{}"),
       "header of 18446744073709551615 bytes, at most"},
      {"sign bit", with_length(uint64_t{1} << 63, "{}"),
       "header of 9223372036854775808 bytes, at most"},
      {"length 0", with_length(0, ""),
       "header:1:1: syntax error while parsing value - unexpected end of input"},
      {"length 1", with_length(1, "{"), "header:1:1: syntax error"},
      {"length 1 of a longer file", with_length(1, "{}"), "header:1:1: syntax error"},
  });
}

TEST_CASE("headers that are not the JSON of the format are refused") {
  expect_refused({
      {"0xFF header", file_of("\xff\xff"), "header:1:1: "},
      {"invalid UTF-8 in a name", file_of("{\"\xff\":1}"), "ill-formed UTF-8"},
      {"brace only", file_of("{"), "header:1:1: syntax error while parsing object key"},
      {"broken JSON", file_of("{\"a\":}"), "header:1:6: "},
      {"array", file_of("[1]"), "header: found array, expected object"},
      {"number", file_of("7"), "header: found integer, expected object"},
      {"BOM", file_of("\xef\xbb\xbf{}"), "byte order mark"},
      {"NUL after the JSON", file_of(std::string("{}\0", 3)), "NUL byte"},
      {"deep", file_of("{\"a\":" + std::string(100, '[')), "deeper than 64 levels"},
      {"metadata not an object", file_of("{\"__metadata__\":[]}"),
       "__metadata__: found array, expected object"},
      {"metadata number", file_of("{\"__metadata__\":{\"k\":1}}"),
       "__metadata__ \"k\": found integer, expected string"},
      {"metadata null", file_of("{\"__metadata__\":{\"k\":null}}"),
       "__metadata__ \"k\": found null"},
      {"duplicate metadata key", file_of(R"({"__metadata__":{"k":"1","k":"2"}})"),
       "duplicate key \"k\""},
      {"duplicate metadata", file_of(R"({"__metadata__":{},"__metadata__":{}})"),
       "duplicate key \"__metadata__\""},
      {"duplicate tensor",
       file_of("{" + entry("a", "U8", "[0]", "[0,0]") + "," + entry("a", "U8", "[0]", "[0,0]") +
               "}"),
       "duplicate key \"a\""},
      {"duplicate field",
       file_of(R"({"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}})"),
       "duplicate key \"dtype\""},
      {"of ours, not starting with a brace", file_of(R"( {"__metadata__":{"lema_format":"1"}})"),
       "starts with '{'"},
  });
}

TEST_CASE("entries with wrong fields are refused") {
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets,
                      size_t data = 24) {
    return file_of("{" + entry("a", dtype, shape, offsets) + "}", data);
  };
  expect_refused({
      {"not an object", file_of("{\"a\":1}"), "tensor a: found integer, expected object"},
      {"no dtype", file_of(R"({"a":{"shape":[],"data_offsets":[0,4]}})", 4), "tensor a: no dtype"},
      {"no shape", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4),
       "tensor a: no shape"},
      {"no offsets", file_of(R"({"a":{"dtype":"F32","shape":[]}})", 4),
       "tensor a: no data_offsets"},
      {"dtype number", file_of(R"({"a":{"dtype":1,"shape":[],"data_offsets":[0,4]}})", 4),
       "tensor a: dtype: found integer, expected string"},
      {"shape object", one("F32", "{}", "[0,24]"), "tensor a: shape: found object, expected array"},
      {"unknown dtype", one("F33", "[6]", "[0,24]"), "tensor a: unknown dtype \"F33\""},
      {"dtype in lower case", one("f32", "[6]", "[0,24]"), "tensor a: unknown dtype \"f32\""},
      {"one offset", one("F32", "[6]", "[24]"), "data_offsets of 1 numbers, expected 2"},
      {"three offsets", one("F32", "[6]", "[0,24,48]"), "data_offsets of 3 numbers, expected 2"},
      {"float offset", one("F32", "[6]", "[0.0,24]"),
       "data_offsets: found number, expected integer"},
      {"exponent offset", one("F32", "[6]", "[0,24e0]"),
       "data_offsets: found number, expected integer"},
      {"string offset", one("F32", "[6]", "[0,\"24\"]"),
       "data_offsets: found string, expected integer"},
      {"negative offset", one("F32", "[6]", "[-24,0]"), "data_offsets: -24 is negative"},
      {"offset beyond 2^53", one("F32", "[6]", "[0,9007199254740993]"),
       "tensor a: 9007199254740993 bytes, but"},
      {"offset beyond 2^63", one("F32", "[6]", "[0,9223372036854775808]"),
       "integer beyond 64 bits"},
      {"negative dimension", one("F32", "[-2,-3]", "[0,24]"), "shape: -2 is negative"},
      {"float dimension", one("F32", "[6.0]", "[0,24]"), "shape: found number, expected integer"},
      {"rank 9", one("U8", "[1,1,1,1,1,1,1,1,24]", "[0,24]"), "tensor a: 9 dimensions, at most 8"},
      {"begin > end", one("F32", "[6]", "[24,0]"),
       "tensor a: data_offsets [24, 0] end before they begin"},
      {"long name", file_of("{" + entry(std::string(1025, 'n'), "U8", "[1]", "[0,1]") + "}", 1),
       "name of 1025 bytes, at most 1024"},
      {"terminal escape in a name",
       file_of("{" + entry("\\u001b[2J", "X", "[1]", "[0,1]") + "}", 1),
       "tensor \\x1b[2J: unknown dtype \"X\""},
      {"terminal escape in a dtype", one("\\u001b]0;x\\u0007", "[6]", "[0,24]"),
       "unknown dtype \"\\x1b]0;x\\x07\""},
  });
}

TEST_CASE("sizes that contradict each other are refused, without overflow") {
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets,
                      size_t data) {
    return file_of("{" + entry("a", dtype, shape, offsets) + "}", data);
  };
  const auto two = [](std::string_view first, std::string_view second, size_t data) {
    return file_of(
        "{" + entry("a", "U8", "[4]", first) + "," + entry("b", "U8", "[4]", second) + "}", data);
  };
  expect_refused({
      {"shape/offset mismatch", one("F32", "[2,3]", "[0,20]", 20),
       "tensor a: 20 bytes, but F32 of shape [2, 3] takes 24"},
      {"scalar of 8 bytes", one("F32", "[]", "[0,8]", 8), "8 bytes, but F32 of shape [] takes 4"},
      {"product overflow", one("U8", "[4294967296,4294967296]", "[0,0]", 0),
       "has no whole 63-bit number of bytes"},
      {"product overflow to a small number", one("U8", "[4611686018427387905,4]", "[0,4]", 4),
       "no whole 63-bit"},
      {"overflow before a zero", one("U8", "[4294967296,4294967296,0]", "[0,0]", 0),
       "no whole 63-bit"},
      {"byte overflow", one("F64", "[2305843009213693952]", "[0,0]", 0),
       "no whole 63-bit number of bytes"},
      {"largest dimension", one("U8", "[9223372036854775807]", "[0,8]", 8),
       "no whole 63-bit number of bytes"},
      {"FP4 not whole bytes", one("F4", "[3]", "[0,2]", 2), "F4 of shape [3] has no whole"},
      {"FP4 wrong size", one("F4", "[4]", "[0,4]", 4),
       "tensor a: 4 bytes, but F4 of shape [4] takes 2"},
      {"FP6 not whole bytes", one("F6_E2M3", "[2]", "[0,2]", 2),
       "F6_E2M3 of shape [2] has no whole"},
      {"hole", two("[0,4]", "[5,9]", 9), "tensor b begins at 5: a hole of 1 bytes before it"},
      {"first begin not 0", two("[4,8]", "[8,12]", 12),
       "tensor a begins at 4: a hole of 4 bytes before it"},
      {"overlap", two("[0,4]", "[3,7]", 7), "tensor b begins at 3, inside tensor a that ends at 4"},
      {"same region", two("[0,4]", "[0,4]", 4), "begins at 0, inside tensor"},
      {"10 tensors on one region", file_of(many_on_one_region(10), 4),
       "begins at 0, inside tensor"},
      {"100 k tensors on one region", file_of(many_on_one_region(100'000), 4),
       "begins at 0, inside tensor"},
      {"trailing byte", file_of(kTwo, 30),
       "30 bytes of data, the header describes 29: trailing bytes"},
      {"2 bytes short", file_of(kTwo, 27),
       "27 bytes of data, the header describes 29: the file is cut short"},
      {"no data", file_of(kTwo, 0),
       "0 bytes of data, the header describes 29: the file is cut short"},
      {"data without tensors", file_of("{}", 1),
       "1 bytes of data, the header describes 0: trailing bytes"},
      {"end near 2^63", one("U8", "[9223372036854775807]", "[0,9223372036854775807]", 8),
       "no whole 63-bit"},
  });
}

TEST_CASE("10 M tensors on one region and 1 M + 1 tensors stop at a cap") {
  // 10 M entries exceed the header limit; a file that claims them is refused by its length alone.
  expect_refused({{"10 M", with_length(580'000'000, many_on_one_region(10)), "at most 100000000"}});
  std::string header = "{";
  for (int i = 0; i < 1'000'002; ++i) header += fmt::format("{}\"{}\":{{}}", i ? "," : "", i);
  expect_refused(
      {{"1,000,002 members", file_of(header + "}"), "an object of more than 1000001 members"}});
}

TEST_CASE("what is not a safetensors file at all is named") {
  expect_refused({
      {"git-LFS pointer",
       "version https://git-lfs.github.com/spec/v1\n"
       "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24\n"
       "size 268435456\n",
       "not a safetensors file but a git-LFS pointer"},
      {"HTML page", "<!DOCTYPE html>\n<html><body>404</body></html>",
       "not a safetensors file but an HTML page"},
      {"HTML page after blank lines", "\n\n<html lang=en>", "an HTML page"},
      {"GGUF", std::string("GGUF\3\0\0\0", 8) + std::string(64, '\0'), "a GGUF file"},
  });
  CHECK_THROWS_WITH(SafetensorsFile("/nonexistent/x.safetensors"), Catch::Contains("no such file"));
  CHECK_THROWS_WITH(SafetensorsFile(fs::temp_directory_path()),
                    Catch::Contains("not a regular file"));
}

TEST_CASE("valid files of every shape are accepted") {
  CHECK(open_bytes(file_of("{}")).tensors().empty());
  CHECK(open_bytes(file_of("{\"__metadata__\":{}}")).metadata().empty());
  CHECK(open_bytes(file_of(" \n" + kTwo, 29)).tensors().size() == 2);
  CHECK(open_bytes(file_of(kTwo + "  \n ", 29)).tensors().size() == 2);
  CHECK(open_bytes(file_of("{" + entry("s", "F32", "[]", "[0,4]") + "}", 4))
            .find("s")
            ->shape.rank() == 0);
  CHECK(open_bytes(file_of("{" + entry("a", "F4", "[4]", "[0,2]") + "}", 2)).tensors().size() == 1);
  CHECK(open_bytes(file_of("{" + entry("a", "U8", "[1,1,1,1,1,1,1,3]", "[0,3]") + "}", 3))
            .tensors()
            .size() == 1);
  CHECK(open_bytes(file_of("{" + entry(std::string(1024, 'n'), "U8", "[1]", "[0,1]") + "}", 1))
            .tensors()
            .size() == 1);
  // Zero-size tensors share an offset with their neighbours.
  const auto zero = open_bytes(file_of("{" + entry("z", "F32", "[0,3]", "[4,4]") + "," +
                                           entry("a", "U8", "[4]", "[0,4]") + "," +
                                           entry("b", "U8", "[1]", "[4,5]") + "}",
                                       5));
  CHECK(zero.tensors()[0].name == "a");
  CHECK(zero.tensors()[1].name == "z");
  CHECK(zero.tensors()[2].name == "b");
  // Header order is free; tensors come in file order with offsets from the start of the file.
  const std::string swapped =
      "{" + entry("b", "U8", "[5]", "[24,29]") + "," + entry("a", "F32", "[2,3]", "[0,24]") + "}";
  const auto file = open_bytes(file_of(swapped, 29));
  CHECK(file.tensors()[0].name == "a");
  CHECK(file.find("b")->offset == file.data_offset() + 24);
  CHECK(file.find("b")->bytes == 5);
  CHECK(file.find("c") == nullptr);
}

TEST_CASE("the writer's file reads back equal, with its data on the asked boundary") {
  const Folder folder("write");
  const std::vector<TensorSpec> specs = {{"w\"\\\n\xc3\xa9", DType::BF16, {3, 5}},
                                         {"scalar", DType::F64, {}},
                                         {"zero", DType::I32, {0, 7}},
                                         {"bytes", DType::U8, {11}},
                                         {"f4", DType::F4, {2, 3}}};
  for (const int64_t alignment : {int64_t{8}, int64_t{4096}}) {
    const fs::path path = folder.path / fmt::format("w{}.safetensors", alignment);
    std::string data;
    for (int i = 0; i < 30 + 8 + 11 + 3; ++i) data += static_cast<char>(i * 7);
    SafetensorsWriter writer(path, specs, {{"format", "pt"}, {"lema_format", "1"}}, alignment);
    writer.write(data.data(), 37);
    CHECK_THROWS_AS(writer.write(data.data(), 16), Error);
    writer.write(data.data() + 37, 15);
    writer.finish();
    const SafetensorsFile file(path);
    CHECK(file.data_offset() % alignment == 0);
    CHECK(read_text(path, 1 << 20)[8] == '{');
    CHECK(file.metadata() == Metadata{{"format", "pt"}, {"lema_format", "1"}});
    REQUIRE(file.tensors().size() == specs.size());
    std::string read;
    for (size_t i = 0; i < specs.size(); ++i) {
      const TensorEntry& t = file.tensors()[i];
      CHECK(t.name == specs[i].name);
      CHECK(t.dtype == specs[i].dtype);
      CHECK(t.shape == specs[i].shape);
      std::string bytes(static_cast<size_t>(t.bytes), '\0');
      file.read(t, bytes.data());
      read += bytes;
    }
    CHECK(read == data);
  }
}

TEST_CASE("the writer refuses what the reader would") {
  const Folder folder("refuse");
  const fs::path path = folder.path / "no.safetensors";
  const auto write = [&](const std::vector<TensorSpec>& specs) {
    SafetensorsWriter(path, specs, {});
  };
  CHECK_THROWS_AS(write({{"a", DType::U8, {1}}, {"a", DType::U8, {1}}}), Error);
  CHECK_THROWS_AS(write({{"__metadata__", DType::U8, {1}}}), Error);
  CHECK_THROWS_AS(write({{"a", DType::F4, {3}}}), Error);
  CHECK_THROWS_AS(write({{"a", DType::F64, {int64_t{1} << 61}}}), Error);
  const Metadata huge = {{"k", std::string(100'000'000, 'x')}};
  CHECK_THROWS_WITH(SafetensorsWriter(path, {}, huge),
                    Catch::Contains("the format allows 100000000"));
  CHECK_FALSE(fs::exists(path));
  SafetensorsWriter unfinished(path, {{"a", DType::U8, {2}}}, {});
  unfinished.write("x", 1);
  CHECK_THROWS_WITH(unfinished.finish(), Catch::Contains("1 bytes of tensors were not written"));
  CHECK_THROWS_AS(SafetensorsWriter(path, {}, {}), Error);  // exists
}

TEST_CASE("the reference writer's order: dtype descending, then name") {
  std::vector<TensorSpec> specs = {{"b", DType::BF16, {1}}, {"a", DType::F32, {1}},
                                   {"z", DType::F32, {1}},  {"a", DType::BF16, {1}},
                                   {"q", DType::I64, {1}},  {"p", DType::U8, {1}}};
  sort_as_reference_writer(specs);
  std::string order;
  for (const TensorSpec& t : specs) order += t.name;
  CHECK(order == "qazabp");
}

TEST_CASE("a file cut at any byte is refused") {
  const std::string whole = file_of(kTwo, 29);
  for (size_t n = 0; n < whole.size(); ++n)
    CHECK(error_of(std::string_view(whole).substr(0, n)) != "accepted");
}

TEST_CASE("any flipped header byte gives an error or a sound index, never a crash") {
  const std::string whole = file_of("{\"__metadata__\":{\"format\":\"pt\"}," + kTwo.substr(1), 29);
  int accepted = 0;
  for (size_t at = 0; at < whole.size() - 29; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
      try {
        const SafetensorsFile file = open_bytes(bytes);
        ++accepted;  // a changed name, metadata text or dtype of the same width
        int64_t end = file.data_offset();
        for (const TensorEntry& t : file.tensors()) {
          CHECK(t.offset == end);
          CHECK(t.shape.elements() * bits(t.dtype) == t.bytes * 8);
          end += t.bytes;
        }
        CHECK(end == static_cast<int64_t>(whole.size()));
      } catch (const Error& e) {
        CHECK(e.code() == ErrorCode::BadInput);
      }
    }
  }
  CHECK(accepted > 0);
  CHECK(accepted < 400);
}

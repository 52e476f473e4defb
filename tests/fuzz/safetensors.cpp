// Fuzzes the safetensors reader. The first byte picks whether the rest is a file as it is, or a
// header that gets a right length and as many bytes of data as the next two bytes say.
#include "formats/safetensors.h"

#include "fuzz/fuzz_target.h"

using namespace lema;

namespace {

// What is accepted fills the file without hole, is found by name, and is written and read back
// equal.
void check_file(const SafetensorsFile& file) {
  int64_t end = file.data_offset();
  std::vector<TensorSpec> specs;
  int64_t bytes = 0;
  for (const TensorEntry& t : file.tensors()) {
    fuzz::expect(t.offset == end, "a hole or an overlap");
    fuzz::expect(t.bytes * 8 == t.shape.elements() * bits(t.dtype), "a size unlike its shape");
    fuzz::expect(file.find(t.name) == &t, "a tensor that is not found by its name");
    end += t.bytes;
    bytes += t.bytes;
    specs.push_back({t.name, t.dtype, t.shape});
    std::string data(static_cast<size_t>(t.bytes), '\0');
    file.read(t, data.data());
  }
  fuzz::expect(end == file.file().size(), "bytes that no tensor holds");
  const fs::path copy = fuzz::folder().path() / "copy.safetensors";
  fs::remove(copy);
  SafetensorsWriter writer(copy, specs, file.metadata());
  const std::string zeros(static_cast<size_t>(bytes), '\0');
  writer.write(zeros.data(), bytes);
  writer.finish();
  const SafetensorsFile again(copy);
  fuzz::expect(again.metadata() == file.metadata(), "metadata that does not read back");
  fuzz::expect(again.tensors().size() == specs.size(), "tensors that do not read back");
  for (const TensorSpec& spec : specs) {
    const TensorEntry* t = again.find(spec.name);
    fuzz::expect(t && t->dtype == spec.dtype && t->shape == spec.shape, "a tensor that changed");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string bytes(fuzz::text_of(data, size).substr(1));
  if (data[0] % 2 == 1 && size >= 3) {
    const std::string header = bytes.substr(2);
    std::string length(8, '\0');
    for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
    const auto data_bytes = static_cast<size_t>(data[1] | data[2] << 8);
    bytes = length + header + std::string(data_bytes, '\0');
  }
  const fs::path path = fuzz::folder().file("m.safetensors", bytes);
  fuzz::accepts([&] { check_file(SafetensorsFile(path)); });
  return 0;
}

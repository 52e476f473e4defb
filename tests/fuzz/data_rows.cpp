// Fuzzes data files: JSON lines, a JSON array, CSV and plain text, by the first byte, and what the
// rows say.
#include "data/record_reader.h"
#include "data/row_shapes.h"
#include "formats/json.h"
#include "fuzz/fuzz_target.h"

using namespace lema;

namespace {

void check_record(const Record& record, int64_t last_line) {
  fuzz::expect(record.line >= last_line && record.column >= 1, "a record out of its place");
  if (!record.reason.empty()) {
    for (const char c : record.reason)
      fuzz::expect(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "a reason of several lines");
    return;
  }
  fuzz::expect(parse_json(dump_json(record.value), "again") == record.value,
               "a record that does not read back");
  if (!record.value.is_object()) return;
  fuzz::expect(row_content(record.value) == row_content(record.value), "two different contents");
  const auto shape = detect_shape(record.value);
  if (!shape) return;
  fuzz::accepts([&] {
    const auto dialogue = dialogue_of(shape->format, record.value);
    if (dialogue) fuzz::expect(is_dialogue(shape->format, record.value), "no conversation");
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  constexpr const char* kNames[] = {"d.jsonl", "d.json", "d.csv", "d.txt"};
  const fs::path path =
      fuzz::folder().file(kNames[data[0] % 4], fuzz::text_of(data, size).substr(1));
  fuzz::accepts([&] {
    RecordReader reader(path);
    Record record;
    int64_t line = 0, count = 0;
    while (reader.next(record)) {
      check_record(record, line);
      line = record.line;
      fuzz::expect(++count <= static_cast<int64_t>(size), "more records than bytes");
    }
    fuzz::expect(!reader.next(record), "a record after the end");
  });
  return 0;
}

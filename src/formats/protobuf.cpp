// Every length is checked against what is left before it is used.
#include "formats/protobuf.h"

#include <bit>

#include "core/error.h"

namespace lema {

void ProtobufReader::malformed(size_t offset, std::string_view what) const {
  fail(ErrorCode::BadInput, "{}: byte {}: {}", place_, offset, what);
}

std::string_view ProtobufReader::take(uint64_t size) {
  if (size > rest_.size()) malformed(offset_, "the file ends within a field");
  const std::string_view bytes = rest_.substr(0, size);
  rest_.remove_prefix(size);
  offset_ += size;
  return bytes;
}

uint64_t ProtobufReader::varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(1)[0]);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  malformed(offset_, "an integer of more than 10 bytes");
}

uint64_t ProtobufReader::fixed(size_t size) {
  uint64_t value = 0;
  const std::string_view bytes = take(size);
  for (size_t i = 0; i < size; ++i)
    value |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  return value;
}

bool ProtobufReader::next(Field& field) {
  if (rest_.empty()) return false;
  field = {0, Field::Kind::Varint, 0, {}, offset_};
  const uint64_t key = varint();
  field.number = static_cast<int64_t>(key >> 3);
  if (field.number < 1 || field.number >= int64_t{1} << 29)
    malformed(field.offset, "no protobuf field");
  switch (key & 7) {
    case 0:
      field.value = varint();
      return true;
    case 1:
      field.kind = Field::Kind::Fixed64;
      field.value = fixed(8);
      return true;
    case 2:
      field.kind = Field::Kind::Bytes;
      field.bytes = take(varint());
      return true;
    case 5:
      field.kind = Field::Kind::Fixed32;
      field.value = fixed(4);
      return true;
    default:
      malformed(field.offset, "no protobuf field");
  }
}

void ProtobufReader::expect(const Field& field, Field::Kind kind) const {
  if (field.kind != kind)
    malformed(field.offset, fmt::format("field {} is not of its kind", field.number));
}

int64_t ProtobufReader::integer(const Field& field) const {
  expect(field, Field::Kind::Varint);
  return static_cast<int64_t>(field.value);
}

float ProtobufReader::real(const Field& field) const {
  expect(field, Field::Kind::Fixed32);
  return std::bit_cast<float>(static_cast<uint32_t>(field.value));
}

std::string_view ProtobufReader::bytes(const Field& field) const {
  expect(field, Field::Kind::Bytes);
  return field.bytes;
}

ProtobufReader ProtobufReader::message(const Field& field) const {
  const std::string_view message = bytes(field);
  return ProtobufReader(message, place_,
                        static_cast<size_t>(message.data() - rest_.data()) + offset_);
}

}  // namespace lema

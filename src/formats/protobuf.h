// Reading protobuf messages field by field: enough for tokenizer.model.
// Ref: protobuf.dev/programming-guides/encoding.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lema {

// Walks one message. Borrows its bytes. BadInput "PLACE: byte N: ..." where they end within a field
// or are no message.
class ProtobufReader {
 public:
  // `offset`: where the message begins in its file, for messages.
  ProtobufReader(std::string_view message, std::string place, size_t offset = 0)
      : rest_(message), place_(std::move(place)), offset_(offset) {}

  struct Field {
    int64_t number;
    // One of: the value of a varint or of 4 or 8 little-endian bytes; the bytes of a string or
    // message.
    enum class Kind { Varint, Fixed32, Fixed64, Bytes } kind;
    uint64_t value = 0;
    std::string_view bytes;
    size_t offset;  // of the field in the file
  };
  // False at the end of the message.
  bool next(Field& field);

  // The field's content, or a failure that names it. Integers and enumerations are varints.
  int64_t integer(const Field& field) const;
  float real(const Field& field) const;  // float
  std::string_view bytes(const Field& field) const;
  ProtobufReader message(const Field& field) const;

 private:
  [[noreturn]] void malformed(size_t offset, std::string_view what) const;
  void expect(const Field& field, Field::Kind kind) const;
  uint64_t varint();
  uint64_t fixed(size_t size);
  std::string_view take(uint64_t size);

  std::string_view rest_;
  std::string place_;
  size_t offset_;  // of rest_ in the file
};

}  // namespace lema

// Token strings and their ids, both ways. Filled while a tokenizer is loaded, then constant.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "text/word_table.h"

namespace lema {

class Vocabulary {
 public:
  static constexpr int64_t kMaxTokens = 4'000'000;
  static constexpr size_t kMaxTokenBytes = 64 * 1024;

  // BadInput at `place` when the id is out of range or taken, the string is taken or too long.
  void add(std::string_view token, int64_t id, const std::string& place) {
    if (id < 0 || id >= kMaxTokens)
      fail(ErrorCode::BadInput, "{}: token \"{}\" has id {}, expected 0 to {}", place,
           escaped(token), id, kMaxTokens - 1);
    if (token.size() > kMaxTokenBytes)
      fail(ErrorCode::BadInput, "{}: the token of id {} has {} bytes, at most {} are allowed",
           place, id, token.size(), kMaxTokenBytes);
    const auto at = static_cast<size_t>(id);
    if (const auto other = this->token(id))
      fail(ErrorCode::BadInput, "{}: id {} is given to \"{}\" and to \"{}\"", place, id,
           escaped(*other), escaped(token));
    if (!ids_.add(token, static_cast<int32_t>(id)))
      fail(ErrorCode::BadInput, "{}: token \"{}\" is given twice", place, escaped(token));
    if (at >= by_id_.size()) by_id_.resize(at + 1, kNone);
    by_id_[at] = ids_.last();
  }

  std::optional<int32_t> find(std::string_view token) const {
    const int32_t id = ids_.find(token);
    return id >= 0 ? std::optional(id) : std::nullopt;
  }
  // nullopt when no token has this id. The text is there until the next add.
  std::optional<std::string_view> token(int64_t id) const {
    if (id < 0 || id >= limit()) return std::nullopt;
    const WordTable::Span span = by_id_[static_cast<size_t>(id)];
    return span.bytes == kNone.bytes ? std::nullopt : std::optional(ids_.text(span));
  }
  int64_t limit() const { return static_cast<int64_t>(by_id_.size()); }  // largest id + 1
  int64_t count() const { return static_cast<int64_t>(ids_.count()); }

 private:
  static constexpr WordTable::Span kNone{0, 0xFFFFFFFFu};
  WordTable ids_;
  std::vector<WordTable::Span> by_id_;
};

}  // namespace lema

// Token strings and their ids, both ways. Filled while a tokenizer is loaded, then constant.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/error.h"

namespace lema {

class Vocabulary {
 public:
  static constexpr int64_t kMaxTokens = 4'000'000;
  static constexpr size_t kMaxTokenBytes = 64 * 1024;

  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;  // move-only: ids_ views the strings
  Vocabulary& operator=(Vocabulary&&) = default;

  // BadInput at `place` when the id is out of range or taken, the string is taken or too long.
  void add(std::string_view token, int64_t id, const std::string& place) {
    if (id < 0 || id >= kMaxTokens)
      fail(ErrorCode::BadInput, "{}: token \"{}\" has id {}, expected 0 to {}", place,
           escaped(token), id, kMaxTokens - 1);
    if (token.size() > kMaxTokenBytes)
      fail(ErrorCode::BadInput, "{}: the token of id {} has {} bytes, at most {} are allowed",
           place, id, token.size(), kMaxTokenBytes);
    const auto at = static_cast<size_t>(id);
    if (at >= by_id_.size()) by_id_.resize(at + 1, nullptr);
    if (by_id_[at] != nullptr)
      fail(ErrorCode::BadInput, "{}: id {} is given to \"{}\" and to \"{}\"", place, id,
           escaped(*by_id_[at]), escaped(token));
    const std::string& kept = strings_.emplace_back(token);
    if (!ids_.emplace(kept, static_cast<int32_t>(id)).second)
      fail(ErrorCode::BadInput, "{}: token \"{}\" is given twice", place, escaped(token));
    by_id_[at] = &kept;
  }

  std::optional<int32_t> find(std::string_view token) const {
    const auto it = ids_.find(token);
    if (it == ids_.end()) return std::nullopt;
    return it->second;
  }
  // nullptr when no token has this id.
  const std::string* token(int64_t id) const {
    return id >= 0 && id < limit() ? by_id_[static_cast<size_t>(id)] : nullptr;
  }
  int64_t limit() const { return static_cast<int64_t>(by_id_.size()); }  // largest id + 1
  int64_t count() const { return static_cast<int64_t>(strings_.size()); }

 private:
  std::deque<std::string> strings_;  // a deque: its elements never move
  std::vector<const std::string*> by_id_;
  std::unordered_map<std::string_view, int32_t> ids_;
};

}  // namespace lema

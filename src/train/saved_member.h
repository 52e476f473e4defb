// A member of an object in a checkpoint's state.json. Used by LossScale and NumericGuard.
#pragma once

#include <string>
#include <string_view>

#include "core/error.h"
#include "formats/json.h"

namespace lema {

// BadInput "PLACE: OBJECT.KEY is missing".
inline const Value& saved_member(const Value& value, std::string_view object, std::string_view key,
                                 const std::string& place) {
  const Value* found = value.find(key);
  if (!found) fail(ErrorCode::BadInput, "{}: {}.{} is missing", place, object, key);
  return *found;
}

}  // namespace lema

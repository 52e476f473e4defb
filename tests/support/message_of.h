// The message of the Error that a call throws, "" when it throws none: for checks of what users
// read.
#pragma once

#include <string>

#include "core/error.h"

namespace lema::testing {

template <typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace lema::testing

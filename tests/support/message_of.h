// The message of an expected failure: for checks of what users read.
#pragma once

#include <string>
#include <string_view>

#include "core/error.h"
#include "support/catch.h"

namespace lema {

// The message of the Error that body() throws; fails the test when it throws none or another code.
template <typename Body>
std::string message_of(ErrorCode code, Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  FAIL_CHECK("no error");
  return "";
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != text.npos;
}

}  // namespace lema

// CHECK that body throws BadInput and that its message holds the text.
#define CHECK_BAD_INPUT(body, text)                                                             \
  do {                                                                                          \
    const std::string message = ::lema::message_of(::lema::ErrorCode::BadInput, [&] { body; }); \
    INFO(message);                                                                              \
    CHECK(::lema::contains(message, text));                                                     \
  } while (false)

// A folder for one test case, and the message of an expected failure.
#pragma once

#include <unistd.h>

#include <string>
#include <string_view>

#include "core/error.h"
#include "core/file.h"
#include "support/catch.h"

namespace lema {

// Made empty, removed with everything in it.
class TempFolder {
 public:
  explicit TempFolder(std::string_view name)
      : path_(fs::temp_directory_path() / fmt::format("lema_{}_{}", name, ::getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  TempFolder(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  // Writes a file, making the folders above it.
  fs::path file(std::string_view name, std::string_view bytes) const {
    fs::create_directories((path_ / name).parent_path());
    write_file(path_ / name, bytes);
    return path_ / name;
  }

 private:
  fs::path path_;
};

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

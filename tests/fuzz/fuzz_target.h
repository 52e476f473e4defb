// What the fuzz targets share: a folder for parsers that open files, the rule that every input is
// accepted or refused by one clear line, and assertions that abort. Each NAME.cpp here defines
// LLVMFuzzerTestOneInput for one parser; fuzz.sh runs it on corpus/NAME, then at random.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"

namespace lema::fuzz {

// Prints the reason and aborts, which the fuzzer reports with its input.
[[noreturn]] inline void broken(std::string_view what) {
  const std::string line = fmt::format("BROKEN: {}\n", what);
  (void)!::write(2, line.data(), line.size());
  std::abort();
}
inline void expect(bool condition, std::string_view what) {
  if (!condition) broken(what);
}

// A message is one line for a terminal: no control characters, not long, and it says something.
inline void check_message(const Error& error, std::initializer_list<ErrorCode> allowed) {
  const std::string_view message = error.what();
  bool known = false;
  for (const ErrorCode code : allowed) known = known || error.code() == code;
  if (!known) broken(fmt::format("exit code {}: {}", static_cast<int>(error.code()), message));
  expect(!message.empty() && message.size() < 4096, "a message that is empty or too long");
  for (const char c : message)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      broken(fmt::format("a control character in: {}", message));
}

// Runs body; true when it accepts, false when it refuses with one of these codes. All else, other
// exceptions among them, ends the fuzzer.
template <typename Body>
bool accepts(Body&& body, std::initializer_list<ErrorCode> refusals = {ErrorCode::BadInput}) {
  try {
    body();
    return true;
  } catch (const Error& error) {
    check_message(error, refusals);
    return false;
  }
}

// A folder of this process where TMPDIR says, removed at the end; fuzz.sh has it in memory and
// removes what a crash leaves.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / fmt::format("lema_fuzz_{}", ::getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    spdlog::set_level(spdlog::level::off);
  }
  Folder(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  // Writes the bytes as a file of this name, in place: three system calls an input.
  fs::path file(const std::string& name, std::string_view bytes) const {
    fs::path path = path_ / name;
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    expect(::write(fd, bytes.data(), bytes.size()) == std::ssize(bytes), "a file not written");
    ::close(fd);
    return path;
  }

 private:
  fs::path path_;
};

inline const Folder& folder() {
  static const Folder folder;
  return folder;
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace lema::fuzz

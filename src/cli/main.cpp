// The entry of the binary: parses the command line, runs one command and turns what it throws into
// a message and an exit code. A command's own code starts in its cmd_NAME.cpp.
#include <cxxabi.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>
#include <typeinfo>

#include "cli/commands.h"
#include "core/error.h"
#include "core/log.h"
#include "core/signals.h"

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "g++ " __VERSION__;
#endif

// Whether standard error takes the message changes no exit code, here and wherever stdio writes it.
int report(lema::ErrorCode code, const std::string& message) {
  std::fflush(stdout);
  lema::log::end_progress();
  std::fprintf(stderr, "lema: error: %s\n", message.c_str());
  return static_cast<int>(code);
}

// Help and version go to standard output with 0; everything else is a usage error.
int report_usage(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
  const auto used = app.get_subcommands();
  if (!used.empty())
    return report(lema::ErrorCode::Usage,
                  fmt::format("{} (see lema {} --help)", error.what(), used.front()->get_name()));
  std::string commands;
  for (const CLI::App* command : app.get_subcommands(nullptr))
    commands += " " + command->get_name();
  const auto rest = app.remaining();
  const std::string what =
      rest.empty() ? "no command" : fmt::format("unknown command or flag {}", rest.front());
  return report(lema::ErrorCode::Usage,
                fmt::format("{}; commands:{} (see lema --help)", what, commands));
}

void add_commands(CLI::App& app) {
  lema::add_train(app);
  lema::add_convert(app);
  lema::add_merge(app);
  lema::add_chat(app);
  lema::add_eval(app);
  lema::add_data(app);
  lema::add_tokenize(app);
  lema::add_inspect(app);
  lema::add_plan(app);
  lema::add_bench(app);
}

// Parses and runs one command; what it throws but for a usage error is main's.
int run(int argc, char** argv) {
  lema::log::start(false);
  CLI::App app("lema: fine-tunes language models larger than the memory they run in", "lema");
  app.set_version_flag("--version", fmt::format("lema {}\ncompiler: {}\nbackends: {}", LEMA_VERSION,
                                                kCompiler, LEMA_BACKENDS));
  app.add_flag_callback(
      "--verbose", [] { lema::log::start(true); }, "Log more");
  app.require_subcommand(1);
  app.fallthrough();
  add_commands(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_usage(app, error);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout))
    lema::fail(lema::ErrorCode::Io, "cannot write the output");
  return 0;
}

// Without memory: of which it takes none.
int report_no_memory(const char* command) {
  lema::log::end_progress();
  std::fprintf(stderr, "lema: error: out of memory%s%s\n", command ? " in lema " : "",
               command ? command : "");
  return static_cast<int>(lema::ErrorCode::DoesNotFit);
}

// A file of ours in the place of a stream that was closed would get what is said there. /dev/null
// for the other direction: reading and writing fail as before.
void occupy_closed_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      static_cast<void>(!::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY));
}

// Where an exception cannot pass, as in a destructor that a library runs: memory that runs out
// there is reported like any other.
[[noreturn]] void on_terminate() {
  // To throw it again would take memory.
  const std::type_info* thrown = abi::__cxa_current_exception_type();
  if (!thrown || *thrown != typeid(std::bad_alloc)) std::abort();
  std::fputs("lema: error: out of memory\n", stderr);
  std::_Exit(static_cast<int>(lema::ErrorCode::DoesNotFit));
}

}  // namespace

int main(int argc, char** argv) {
  occupy_closed_streams();
  std::set_terminate(on_terminate);
  lema::install_signal_handlers();
  try {
    return run(argc, argv);
  } catch (const lema::Error& error) {
    return report(error.code(), error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    if (error.code() == std::errc::not_enough_memory)
      return report_no_memory(argc > 1 ? argv[1] : nullptr);
    return report(lema::ErrorCode::Io, lema::escaped(error.what()));
  } catch (const std::bad_alloc&) {
    return report_no_memory(argc > 1 ? argv[1] : nullptr);
  } catch (const std::system_error& error) {
    if (std::ferror(stdout)) return report(lema::ErrorCode::Io, "cannot write the output");
    return report(lema::ErrorCode::Internal, error.what());
  } catch (const std::exception& error) {
    return report(lema::ErrorCode::Internal, error.what());
  }
}

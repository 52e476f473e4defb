// The entry of the binary: parses the command line, runs one command and turns what it throws into
// a message and an exit code. A command's own code starts in its cmd_NAME.cpp.
#include <cstdio>
#include <filesystem>
#include <new>
#include <string>

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

int report(lema::ErrorCode code, const std::string& message) {
  std::fflush(stdout);
  lema::log::end_progress();
  fmt::print(stderr, "lema: error: {}\n", message);
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

}  // namespace

int main(int argc, char** argv) {
  lema::install_signal_handlers();
  lema::log::start(false);
  CLI::App app("lema: fine-tunes language models larger than the memory they run in", "lema");
  app.set_version_flag("--version", fmt::format("lema {}\ncompiler: {}\nbackends: {}", LEMA_VERSION,
                                                kCompiler, LEMA_BACKENDS));
  app.add_flag_callback(
      "--verbose", [] { lema::log::start(true); }, "Log more");
  app.require_subcommand(1);
  app.fallthrough();
  try {
    add_commands(app);
    app.parse(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
      lema::fail(lema::ErrorCode::Io, "cannot write the output");
    return 0;
  } catch (const CLI::ParseError& error) {
    return report_usage(app, error);
  } catch (const lema::Error& error) {
    return report(error.code(), error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    return report(lema::ErrorCode::Io, lema::escaped(error.what()));
  } catch (const std::bad_alloc&) {
    return report(lema::ErrorCode::DoesNotFit, "out of memory");
  } catch (const std::exception& error) {
    return report(lema::ErrorCode::Internal, error.what());
  }
}

// The commands of the binary. Each add_NAME registers one subcommand whose callback runs it; it
// lives in cmd_NAME.cpp and is called by main. To add a command: that file, a line here, a line in
// main.
#pragma once

#include <CLI/CLI.hpp>

namespace lema {

void add_train(CLI::App& app);
void add_convert(CLI::App& app);
void add_merge(CLI::App& app);
void add_chat(CLI::App& app);
void add_eval(CLI::App& app);
void add_data(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_inspect(CLI::App& app);
void add_plan(CLI::App& app);
void add_bench(CLI::App& app);

}  // namespace lema

#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace rwkv::apps {

// Each function adds one subcommand; its callback stores the exit code (trainer/exit_code.h).
void add_train(CLI::App& program, int& exit_code);
void add_generate(CLI::App& program, int& exit_code);
void add_launch(CLI::App& program, int& exit_code);
void add_chat(CLI::App& program, int& exit_code);
void add_eval(CLI::App& program, int& exit_code);
void add_embed(CLI::App& program, int& exit_code);
void add_logits(CLI::App& program, int& exit_code);
void add_data(CLI::App& program, int& exit_code);
void add_info(CLI::App& program, int& exit_code);
void add_report(CLI::App& program, int& exit_code);
void add_doctor(CLI::App& program, int& exit_code);
void add_convert(CLI::App& program, int& exit_code);
void add_bench(CLI::App& program, int& exit_code);
void add_plan(CLI::App& program, int& exit_code);

/// The option --strategy of commands that run a model; `strategy` goes to trainer::open_model().
void add_strategy_option(CLI::App& command, std::string& strategy);

}  // namespace rwkv::apps

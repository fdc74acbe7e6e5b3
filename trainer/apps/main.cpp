#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>
#include <string>

#include "data/base/error.h"
#include "trainer/apps/commands.h"
#include "trainer/apps/output.h"
#include "trainer/exit_code.h"
#include "trainer/version.h"

namespace {

using rwkv::trainer::ExitCode;

int fail(ExitCode code, const std::string& message) {
  const bool terminal = ::isatty(STDERR_FILENO) == 1;  // where a line of progress may stand
  fmt::print(stderr, "{}rwkv: {}\n", terminal ? "\r\x1b[K" : "", message);
  return code;
}

bool is_out_of_memory(const c10::Error& error) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  const std::string_view text = error.what_without_backtrace();
  return text.find("allocate memory") != std::string_view::npos ||
         text.find("CUBLAS_STATUS_ALLOC_FAILED") != std::string_view::npos;
}

/// What the user called so far, e.g. "rwkv data info".
std::string called(const CLI::App& program) {
  std::string text = program.get_name();
  for (const CLI::App* at = &program; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    text += " " + at->get_name();
  }
  return text;
}

/// CLI11 says that a subcommand is required where the one that was given does not exist. The
/// message for that; empty when it is not what is wrong.
std::string unknown_command(const CLI::App& program, int argc, char** argv) {
  const CLI::App* at = &program;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto commands = at->get_subcommands([](const CLI::App*) { return true; });
    if (commands.empty() || word.starts_with('-')) return "";
    const auto found = std::ranges::find(commands, word, &CLI::App::get_name);
    if (found == commands.end()) {
      std::string names;
      for (const CLI::App* command : commands) {
        names += (names.empty() ? "" : ", ") + command->get_name();
      }
      return fmt::format("{} has no command '{}'; use one of {}", called(program),
                         rwkv::printable(word, 40), names);
    }
    at = *found;
  }
  return "";
}

int run(int argc, char** argv) {
  CLI::App program("Train RWKV language models and write text with them.", "rwkv");
  program.set_version_flag("--version", rwkv::trainer::version_text());
  program.require_subcommand(1);
  program.failure_message([argc, argv](const CLI::App* app, const CLI::Error& error) {
    const std::string unknown = unknown_command(*app, argc, argv);
    if (!unknown.empty()) return fmt::format("rwkv: {}\n", unknown);
    return fmt::format("rwkv: {}; see '{} --help'\n", error.what(), called(*app));
  });
  int exit_code = ExitCode::kFinished;
  rwkv::apps::add_train(program, exit_code);
  rwkv::apps::add_launch(program, exit_code);
  rwkv::apps::add_generate(program, exit_code);
  rwkv::apps::add_chat(program, exit_code);
  rwkv::apps::add_eval(program, exit_code);
  rwkv::apps::add_embed(program, exit_code);
  rwkv::apps::add_logits(program, exit_code);
  rwkv::apps::add_data(program, exit_code);
  rwkv::apps::add_info(program, exit_code);
  rwkv::apps::add_report(program, exit_code);
  rwkv::apps::add_doctor(program, exit_code);
  rwkv::apps::add_convert(program, exit_code);
  rwkv::apps::add_plan(program, exit_code);
  rwkv::apps::add_bench(program, exit_code);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? ExitCode::kFinished : ExitCode::kUserMistake;
  }
  // Training goes on without a reader; what it made lies in its folder.
  if (!program.got_subcommand("train")) rwkv::apps::check_output_written();
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed terminal or pipe must not end a training run
  std::signal(SIGXFSZ, SIG_IGN);  // a file at the limit of its size is a failed write, cleaned up
  spdlog::set_default_logger(spdlog::stderr_color_mt("rwkv"));
  spdlog::set_pattern("[%H:%M:%S] %^%v%$");
  try {
    return run(argc, argv);
  } catch (const rwkv::UserError& error) {
    return fail(ExitCode::kUserMistake, error.what());
  } catch (const rwkv::trainer::NotFiniteError& error) {
    return fail(ExitCode::kNotFinite, error.what());
  } catch (const rwkv::trainer::PeerLostError& error) {
    fail(ExitCode::kPeerLost, error.what());
    std::fflush(nullptr);
    // Threads of broken collectives are still at work; destructors of statics would pull the ground
    // from under them.
    ::_exit(ExitCode::kPeerLost);
  } catch (const std::bad_alloc&) {
    return fail(ExitCode::kUserMistake, "not enough memory; use a smaller model, batch or context");
  } catch (const c10::Error& error) {
    if (is_out_of_memory(error)) {
      return fail(ExitCode::kUserMistake,
                  "not enough memory; use a smaller model, batch or context");
    }
    return fail(ExitCode::kBug, std::string("internal error, please report it: ") + error.what());
  } catch (const std::exception& error) {
    if (std::ferror(stdout) != 0) {
      return fail(ExitCode::kUserMistake, std::string("standard output: ") + error.what() +
                                              "; what was written is not complete");
    }
    return fail(ExitCode::kBug, std::string("internal error, please report it: ") + error.what());
  }
}

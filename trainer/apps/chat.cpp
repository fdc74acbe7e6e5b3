#include "model/chat.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "data/base/error.h"
#include "trainer/apps/chat_settings.h"
#include "trainer/apps/commands.h"
#include "trainer/apps/model_options.h"
#include "trainer/apps/output.h"
#include "trainer/apps/sampling_options.h"
#include "trainer/apps/text_input.h"
#include "trainer/exit_code.h"

namespace rwkv::apps {
namespace {

struct Arguments {
  ModelArguments model;
  SamplingArguments sampling;
  std::string user;
  std::string bot;
  std::string intro;
  std::string load_state;
  bool ignore_end_of_text = false;
};

volatile std::sig_atomic_t interrupted = 0;

void note_interrupt(int /*signal*/) { interrupted = 1; }

/// While it lives, Ctrl-C is noted instead of ending the program, and ends a read from the
/// terminal.
class InterruptNote {
 public:
  InterruptNote() {
    struct sigaction action {};
    action.sa_handler = note_interrupt;
    ::sigaction(SIGINT, &action, &before_);
  }
  InterruptNote(const InterruptNote&) = delete;
  InterruptNote& operator=(const InterruptNote&) = delete;
  ~InterruptNote() { ::sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

/// Waits for input. False when Ctrl-C came first: a signal just before a read would not end it, so
/// the terminal is asked again and again.
bool wait_for_input() {
  constexpr int kMilliseconds = 100;
  while (interrupted == 0) {
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (::poll(&input, 1, kMilliseconds) > 0) return true;
  }
  return false;
}

/// One line of standard input; nothing at its end. An interrupted read gives an empty line.
std::optional<std::string> read_line(bool on_terminal) {
  if (on_terminal && !wait_for_input()) return "";
  char* buffer = nullptr;
  size_t size = 0;
  errno = 0;
  const ssize_t length = ::getline(&buffer, &size, stdin);
  const std::unique_ptr<char, decltype(&std::free)> owner(buffer, &std::free);
  if (length < 0) {
    if (errno != EINTR) return {};
    std::clearerr(stdin);
    return "";
  }
  std::string line(buffer, static_cast<size_t>(length));
  while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
  return line;
}

constexpr std::string_view kHelp =
    "  /retry           another reply to the last message\n"
    "  /more            go on with the last reply\n"
    "  /reset           forget the conversation\n"
    "  /set             list the settings\n"
    "  /set NAME VALUE  change one, e.g. /set temperature 0.8\n"
    "  /qa TEXT         ask a question outside the conversation\n"
    "  /save FILE       write the conversation's state to a .safetensors file\n"
    "  /load FILE       go on from such a file\n"
    "  /quit            leave (also Ctrl-D); Ctrl-C stops a reply\n"
    "In a message, \\n stands for a line break.\n";

/// The conversation at the terminal or through a pipe.
class Session {
 public:
  Session(model::Chat& chat, bool on_terminal) : chat_(chat), on_terminal_(on_terminal) {}

  /// Reads lines until /quit or the end of input. False when a line had a mistake.
  bool run() {
    bool all_fine = true;
    while (true) {
      if (on_terminal_) write_output(fmt::format("\n{}: ", chat_.config().user));
      const auto line = read_line(on_terminal_);
      if (!line || *line == "/quit") break;
      if (std::exchange(interrupted, 0) != 0) {
        write_output("\n(/quit leaves)");
        continue;
      }
      if (line->empty()) continue;
      try {
        answer(*line);
      } catch (const UserError& error) {
        write_output("");
        fmt::print(stderr, "rwkv: {}\n", error.what());
        all_fine = false;
      }
    }
    if (on_terminal_) write_output("\n");
    return all_fine;
  }

 private:
  void answer(const std::string& line) {
    interrupted = 0;
    if (!line.starts_with('/')) return show_reply([&] { return chat_.say(line, emit()); });
    const size_t space = std::min(line.find(' '), line.size());
    const std::string command = line.substr(0, space);
    const std::string rest = line.substr(std::min(space + 1, line.size()));
    if (command == "/retry") return show_reply([&] { return existing(chat_.retry(emit())); });
    if (command == "/more") return show_more();
    if (command == "/reset") return chat_.reset();
    if (command == "/help") return write_output(kHelp);
    if (command == "/set") return set(rest);
    if (command == "/qa") return ask(rest);
    if (command == "/save") return chat_.save(file_name(rest, command));
    if (command == "/load") return load(file_name(rest, command));
    user_error("there is no command {}; /help lists them", printable(command, 40));
  }

  model::Emit emit() {
    return [this](std::string_view text) {
      if (!text.empty() && !named_) {
        write_output(chat_.config().bot + chat_.config().separator);
        named_ = true;
      }
      write_output(text);
      return interrupted == 0;
    };
  }

  static model::Written existing(std::optional<model::Written> written) {
    if (!written) user_error("there is no reply yet; type a message first");
    return std::move(*written);
  }

  /// The bot's name is shown with the first text, so a message that is refused leaves no half line.
  template <typename Write>
  void show_reply(const Write& write) {
    named_ = false;
    finish_reply(write());
  }
  void show_more() {
    named_ = true;
    finish_reply(existing(chat_.more(emit())));
  }
  void ask(const std::string& question) {
    if (question.empty()) user_error("/qa: the question is empty; write e.g. /qa What is rain?");
    named_ = true;
    finish_reply(chat_.ask(question, emit()));
  }
  void finish_reply(const model::Written& written) {
    const bool stopped = written.reason == model::StopReason::kInterrupted;
    interrupted = 0;
    write_output(stopped ? " ... (stopped)\n" : "\n");
  }

  void set(const std::string& rest) {
    if (rest.empty()) return write_output(list_settings(chat_.config().write.generate));
    const size_t space = std::min(rest.find(' '), rest.size());
    change_setting(chat_.config().write.generate, rest.substr(0, space),
                   rest.substr(std::min(space + 1, rest.size())));
  }

  static std::string file_name(const std::string& rest, const std::string& command) {
    if (rest.empty()) user_error("{0}: name a file, e.g. {0} chat.safetensors", command);
    return rest;
  }

  void load(const std::string& file) {
    if (const std::string warning = chat_.load(file); !warning.empty()) spdlog::warn(warning);
  }

  model::Chat& chat_;
  bool on_terminal_;
  bool named_ = false;  // whether the bot's name stands before the reply
};

/// Names stand in the text that the model reads: a line break in one would end a turn.
void check_name(const std::string& name, const char* option) {
  const bool fits = !name.empty() && name.find_first_of("\r\n") == std::string::npos;
  if (!fits) {
    user_error("{}: '{}' is no name; use one line with one character or more", option,
               printable(name, 40));
  }
}

model::ChatConfig chat_config(const Arguments& arguments) {
  check_name(arguments.user, "--user");
  check_name(arguments.bot, "--bot");
  model::ChatConfig config;
  config.write.generate = generate_options(arguments.sampling);
  config.write.ignore_end_of_text = arguments.ignore_end_of_text;
  config.user = arguments.user;
  config.bot = arguments.bot;
  if (!arguments.intro.empty()) config.intro = read_text(arguments.intro);
  return config;
}

int chat(const Arguments& arguments) {
  const model::ChatConfig config = chat_config(arguments);
  const auto source = open_text_model(arguments.model);
  check_banned(arguments.sampling, *source.model);
  model::Chat conversation(*source.model, *source.vocabulary, config);
  if (!arguments.load_state.empty()) {
    const std::string warning = conversation.load(arguments.load_state);
    if (!warning.empty()) spdlog::warn(warning);
  }
  const bool on_terminal = ::isatty(STDIN_FILENO) == 1;
  std::optional<InterruptNote> note;
  if (on_terminal) {
    note.emplace();
    write_output("Type a message; /help lists the commands.\n");
  }
  return Session(conversation, on_terminal).run() ? trainer::kFinished : trainer::kUserMistake;
}

}  // namespace

void add_chat(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand("chat", "Talk with a model in a terminal");
  auto arguments = std::make_shared<Arguments>();
  const model::ChatConfig defaults;
  arguments->user = defaults.user;
  arguments->bot = defaults.bot;
  arguments->sampling.sampling = defaults.write.generate.sampling;
  arguments->sampling.penalties = defaults.write.generate.penalties;
  arguments->sampling.penalty_weight =
      name_of(model::kPenaltyWeightNames, defaults.write.generate.penalties.penalty_weight);
  arguments->sampling.tokens = defaults.write.generate.tokens;
  add_model_options(*command, arguments->model);
  command->add_option("--user", arguments->user, "Your name in the text that the model reads")
      ->capture_default_str();
  command->add_option("--bot", arguments->bot, "The model's name there")->capture_default_str();
  command->add_option("--intro", arguments->intro,
                      "File with text that the model reads before the first message");
  command->add_option("--load-state", arguments->load_state,
                      "Go on from a file that /save or generate --save-state wrote");
  command->add_flag("--ignore-eot", arguments->ignore_end_of_text,
                    "Never draw the token that ends a text");
  add_sampling_options(*command, arguments->sampling);
  command->callback([arguments, &exit_code] { exit_code = chat(*arguments); });
}

}  // namespace rwkv::apps

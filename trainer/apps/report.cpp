#include "trainer/report/report.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "trainer/apps/commands.h"
#include "trainer/exit_code.h"

namespace rwkv::apps {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::vector<std::string> folders;
  std::string out;
};

/// A page replaces a page, and nothing else: a slip must not cost a log or weights.
void check_output(const fs::path& out) {
  std::ifstream in(out);
  if (!in) return;
  std::string start(15, '\0');
  in.read(start.data(), std::ssize(start));
  if (in.gcount() == 0 || start == "<!DOCTYPE html>") return;
  user_error("--out: {} is there and no report; choose another name, or remove it",
             printable(out.string()));
}

int report(const Arguments& arguments) {
  const std::vector<fs::path> folders(arguments.folders.begin(), arguments.folders.end());
  fs::path out = arguments.out;
  if (out.empty()) {
    out =
        folders.size() == 1 ? folders.front() / report::kReportFile : fs::path(report::kReportFile);
  }
  check_output(out);
  report::write_report(folders, out, report::show_read_progress);
  fmt::print("wrote {}\n", printable(out.string()));
  return trainer::kFinished;
}

}  // namespace

void add_report(CLI::App& program, int& exit_code) {
  auto* command =
      program.add_subcommand("report", "Draw the curves of one or several runs into one HTML page");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("folder", arguments->folders, "Folders of runs (train.out_dir)")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--out", arguments->out,
                   "File to write; default: report.html in the folder of a single run, or here")
      ->type_name("FILE.html");
  command->callback([arguments, &exit_code] { exit_code = report(*arguments); });
}

}  // namespace rwkv::apps

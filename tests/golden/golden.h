#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace rwkv::golden {

/// What a checker found in one golden file. Each call of compare() is one line of the table.
class Report {
 public:
  /// Records the largest difference of one quantity and the bound it must meet (0 means exact). A
  /// difference that is not finite fails.
  void compare(const std::string& quantity, double difference, double bound);
  /// Records an exact comparison.
  void equal(const std::string& quantity, bool same) { compare(quantity, same ? 0.0 : 1.0, 0.0); }

  struct Line {
    std::string quantity;
    double difference;
    double bound;
    [[nodiscard]] bool passed() const { return difference <= bound; }
  };
  [[nodiscard]] const std::vector<Line>& lines() const { return lines_; }

 private:
  std::vector<Line> lines_;
};

/// Checks one file against our implementation; throws when the file cannot be read.
using Checker = void (*)(const std::filesystem::path& file, Report& report);

// One function per family of files; which file goes where stands in the table of golden_main.cpp.
void check_binidx(const std::filesystem::path& file, Report& report);       // binidx*.json
void check_jsonl_pair(const std::filesystem::path& file, Report& report);   // *.idx with its .bin
void check_charlevel(const std::filesystem::path& file, Report& report);    // charlevel*.json
void check_sampler(const std::filesystem::path& file, Report& report);      // sampler*.json
void check_qa_mask(const std::filesystem::path& file, Report& report);      // qa_mask*.json
void check_lr_schedule(const std::filesystem::path& file, Report& report);  // lr_schedule*.json
void check_groups(const std::filesystem::path& file, Report& report);       // groups*.json
void check_adam(const std::filesystem::path& file, Report& report);         // adam*.pth
void check_l2wrap(const std::filesystem::path& file, Report& report);       // l2wrap*.pth
void check_sampling(const std::filesystem::path& file, Report& report);     // sampling.json
void check_early_sampling(const std::filesystem::path& file, Report& report);  // sampling.pth
void check_loss(const std::filesystem::path& file, Report& report);            // loss*.pth
void check_wkv4(const std::filesystem::path& file, Report& report);            // wkv4*.pth
void check_rwkv4(const std::filesystem::path& file, Report& report);  // rwkv4_*.pth: whole models
void check_chatrwkv(const std::filesystem::path& file, Report& report);    // rwkv4_chatrwkv*.pth
void check_rescale(const std::filesystem::path& file, Report& report);     // rwkv4_rescale*.pth
void check_rwkv4_init(const std::filesystem::path& file, Report& report);  // rwkv4_init*.pth

}  // namespace rwkv::golden

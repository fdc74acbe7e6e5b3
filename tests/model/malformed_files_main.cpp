// malformed_files FOLDER: writes every malformed weight file of the tables into FOLDER, and
// cases.jsonl with a line for each: file, name, and the text that its error message must hold (null
// where the file must load).
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/model/malformed_cases.h"

namespace rwkv::formats::testing {
namespace {

class Writer {
 public:
  explicit Writer(std::filesystem::path folder)
      : folder_(std::move(folder)), list_(folder_ / "cases.jsonl") {}

  void write(const std::string& kind, const std::vector<Case>& cases, bool loads = false) {
    for (size_t i = 0; i < cases.size(); ++i) {
      const std::string file = kind + "-" + std::to_string(i);
      write_bytes(folder_ / file, cases[i].bytes);
      nlohmann::ordered_json line{{"file", file}, {"name", kind + ": " + cases[i].name}};
      if (loads) {
        line["message"] = nullptr;
      } else {
        line["message"] = cases[i].fragment;
      }
      list_ << line.dump() << '\n';
    }
  }

 private:
  std::filesystem::path folder_;
  std::ofstream list_;
};

}  // namespace
}  // namespace rwkv::formats::testing

int main(int argc, char** argv) {
  using namespace rwkv::formats::testing;
  if (argc != 2 || !std::filesystem::is_directory(argv[1])) {
    std::fprintf(stderr, "usage: malformed_files FOLDER\n");
    return 2;
  }
  Writer writer(argv[1]);
  for (const MalformedGroup& group : malformed_pth())
    writer.write("pth-" + group.name, group.cases);
  writer.write("legacy", malformed_legacy_pth());
  writer.write("safetensors", malformed_safetensors());
  writer.write("other", files_of_other_kinds());
  writer.write("control", controls_that_load(), /*loads=*/true);
  return 0;
}

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void run(const std::string& bytes) {
  // A copy of its exact size, so that a sanitizer sees reads behind the end.
  const std::vector<uint8_t> copy(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

/// One to four changes: a byte set, a bit flipped, a piece removed, doubled or cut off.
std::string mutated(std::string bytes, std::mt19937& random) {
  const auto below = [&random](size_t limit) { return limit == 0 ? 0 : random() % limit; };
  for (size_t changes = 1 + below(4); changes > 0; --changes) {
    const size_t at = below(bytes.size());
    const size_t length = std::min(1 + below(16), bytes.size() - at);
    switch (below(5)) {
      case 0:
        bytes.insert(at, 1, static_cast<char>(random()));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(below(bytes.size() + 1), bytes.substr(at, length));
        break;
      default:
        if (below(8) == 0) bytes.resize(at);
    }
  }
  return bytes;
}

}  // namespace

// replay [MUTATIONS] FOLDER...: runs a fuzz target over the files of the folders, and over
// MUTATIONS changed copies of each: a plain test for compilers without a fuzzer. The changes are
// the same in each run.
int main(int argc, char** argv) {
  const int mutations = argc > 2 ? std::atoi(argv[1]) : 0;
  int64_t count = 0;
  for (int i = argc > 2 ? 2 : 1; i < argc; ++i) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i])) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    std::mt19937 random(1);
    for (const auto& path : files) {
      std::ifstream file(path, std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(file), {}};
      run(bytes);
      for (int n = 0; n < mutations; ++n) run(mutated(bytes, random));
      count += 1 + mutations;
    }
  }
  std::printf("%lld inputs\n", static_cast<long long>(count));
  return count > 0 ? 0 : 1;
}

// bench_tokenizers TOKENIZER TEXT [REPEAT]: encodes the text (ill-formed UTF-8 replaced) on one
// core REPEAT times and prints one line of JSON: {"load_s", "bytes", "tokens", "best_s"}.
// scripts/bench-tokenizers compares it with others.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <limits>
#include <string>

#include "data/base/mapped_file.h"
#include "data/base/utf8.h"
#include "data/tokenizers/open_vocabulary.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

int run(const char* tokenizer, const char* path, int repeat) {
  const auto begin = Clock::now();
  const auto vocabulary = rwkv::data::open_vocabulary(tokenizer);
  const double load_s = seconds_since(begin);
  const rwkv::MappedFile file(path);
  const std::string text = rwkv::replace_ill_formed_utf8(
      {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
  double best_s = std::numeric_limits<double>::infinity();
  size_t tokens = 0;
  for (int i = 0; i < repeat; ++i) {
    const auto start = Clock::now();
    tokens = vocabulary->encode(text).size();
    best_s = std::min(best_s, seconds_since(start));
  }
  fmt::print("{{\"load_s\": {:.4f}, \"bytes\": {}, \"tokens\": {}, \"best_s\": {:.4f}}}\n", load_s,
             text.size(), tokens, best_s);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: bench_tokenizers TOKENIZER TEXT [REPEAT]\n");
    return 2;
  }
  try {
    return run(argv[1], argv[2], argc > 3 ? std::max(1, std::atoi(argv[3])) : 3);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_tokenizers: {}\n", error.what());
    return 2;
  }
}

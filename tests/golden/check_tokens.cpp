// Tokenizers: ids and texts of Hugging Face's tokenizers package (20B) and of ChatRWKV (World).

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/base/mapped_file.h"
#include "data/base/utf8.h"
#include "data/indexed_dataset.h"
#include "data/indexed_dataset_builder.h"
#include "data/tokenize_file.h"
#include "data/tokenizers/open_vocabulary.h"
#include "tests/golden/golden.h"
#include "tests/golden/temp_folder.h"

namespace rwkv::golden {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int64_t>;

fs::path tokenizer_file(const std::string& name) {
  const char* folder = std::getenv("RWKV_TOKENIZERS");
  return fs::path(folder != nullptr ? folder : RWKV_TOKENIZERS_DEFAULT) / name;
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

/// Differences of `cases`, each of which `same` looks at.
template <typename Same>
void count(const json& cases, const std::string& quantity, Report& report, const Same& same) {
  int different = cases.empty() ? 1 : 0;
  for (const json& one : cases) different += same(one) ? 0 : 1;
  report.compare(quantity, different, 0);
}

}  // namespace

void check_tokens(const fs::path& file, Report& report) {
  std::ifstream in(file);
  const json golden = json::parse(in);
  const fs::path path = tokenizer_file(golden.at("tokenizer"));
  if (!fs::exists(path)) {
    report.skip(path.filename().string() + " is not there; scripts/get-tokenizers gets it");
    return;
  }
  const auto vocabulary = data::open_vocabulary(path.string());
  // The originals show a text; ill-formed parts appear as U+FFFD there.
  const auto decodes = [&](const json& one) {
    return replace_ill_formed_utf8(vocabulary->decode(one.at("ids").get<Ids>())) ==
           one.at("decoded");
  };
  count(golden.at("strings"), "ids", report, [&](const json& one) {
    return vocabulary->encode(one.at("text").get<std::string>()) == one.at("ids").get<Ids>();
  });
  count(golden.at("strings"), "texts of ids", report, decodes);
  count(golden.at("decode_only"), "texts of ids alone", report, decodes);
  if (!golden.contains("raw_bytes")) return;
  count(golden.at("raw_bytes"), "ids of any bytes, and back", report, [&](const json& one) {
    const std::string bytes = from_hex(one.at("bytes_hex"));
    const Ids ids = vocabulary->encode(bytes);
    return ids == one.at("ids").get<Ids>() && vocabulary->decode(ids) == bytes;
  });
}

/// The pair that preprocess_data.py of json2binidx_tool made of tiny.jsonl (jsonl_world_uint16:
/// make_data.py of RWKV-5, which keeps the empty document).
void check_jsonl(const fs::path& file, Report& report) {
  check_jsonl_pair(file, report);
  const std::string name = file.stem().string();
  const bool world = name.starts_with("jsonl_world");
  const fs::path tokenizer =
      tokenizer_file(world ? "rwkv_vocab_v20230424.txt" : "20B_tokenizer.json");
  const fs::path text = file.parent_path() / "tiny.jsonl";
  if (!fs::exists(tokenizer) || !fs::exists(text)) {
    fmt::print("{:<40} not made from tiny.jsonl: {} is not there\n", name,
               (fs::exists(text) ? tokenizer : text).filename().string());
    return;
  }
  const auto vocabulary = data::open_vocabulary(tokenizer.string());
  data::TokenizeOptions options{.jsonl = true};
  options.keep_empty = name.ends_with("uint16");
  const TempFolder folder;
  data::IndexedDatasetBuilder builder(folder / "pair", data::IndexedDataset(file).type());
  const data::TokenSink sink{
      .tokens = [&](std::span<const int64_t> ids) { builder.add_sequence(ids); },
      .end_document = [&] { builder.end_document(); },
  };
  data::tokenize_file(MappedFile(text), *vocabulary, options, sink);
  builder.finish();
  for (const char* extension : {".idx", ".bin"}) {
    fs::path wanted = file;
    report.equal(name + extension + " of tiny.jsonl, byte for byte",
                 read_bytes(folder / (std::string("pair") + extension)) ==
                     read_bytes(wanted.replace_extension(extension)));
  }
}

}  // namespace rwkv::golden

// Data files and their order: readers, builder, character vocabularies, sampler, QA mask.

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/indexed_dataset.h"
#include "data/indexed_dataset_builder.h"
#include "data/npy.h"
#include "data/qa_mask.h"
#include "data/sampler.h"
#include "data/text_dataset.h"
#include "data/token_source.h"
#include "tests/golden/golden.h"
#include "tests/golden/temp_folder.h"

namespace rwkv::golden {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int64_t>;

void write_bytes(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

json read_json(const fs::path& path) { return json::parse(read_bytes(path)); }

/// Bytes of hexadecimal text, which may be spaced.
std::string from_hex(std::string text) {
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

Ids read_all(const data::TokenSource& source) {
  Ids ids(static_cast<size_t>(source.size()));
  source.read(0, ids);
  return ids;
}

/// Writes the sequences and documents of `dataset` again and compares both files with its own.
void check_rewriting(const data::IndexedDataset& dataset, const std::string& name, Report& report) {
  const TempFolder folder;
  data::IndexedDatasetBuilder builder(folder / "again", dataset.type());
  int64_t done = 0;
  for (int64_t document = 1; document < dataset.document_entries(); ++document) {
    for (; done < dataset.document_entry(document); ++done) {
      builder.add_sequence(dataset.sequence(done));
    }
    builder.end_document();
  }
  builder.finish();
  report.equal(name + ": .idx written again",
               read_bytes(folder / "again.idx") == read_bytes(dataset.paths().idx));
  report.equal(name + ": .bin written again",
               read_bytes(folder / "again.bin") == read_bytes(dataset.paths().bin));
}

void check_stream(const json& wanted, const data::IndexedDataset& dataset, const std::string& name,
                  Report& report) {
  Ids stream(static_cast<size_t>(dataset.tokens()));
  dataset.view().read(0, stream);
  report.equal(name + ": token stream", stream == wanted.at("stream").get<Ids>());
  bool windows = true;
  for (const json& get : wanted.at("get_idx0")) {
    Ids window(get.at("length").get<size_t>());
    dataset.view().read(get.at("offset").get<int64_t>(), window);
    windows = windows && window == get.at("tokens").get<Ids>();
  }
  report.equal(name + ": windows", windows);
}

void check_pair(const json& wanted, const fs::path& prefix, const std::string& name,
                Report& report) {
  const data::IndexedDataset dataset(prefix);
  report.equal(name + ": dtype code",
               static_cast<int64_t>(dataset.type()) == wanted.at("dtype_code").get<int64_t>());
  report.equal(name + ": dtype name", data::parse_token_type(wanted.at("dtype").get<std::string>(),
                                                             name) == dataset.type());
  report.equal(name + ": counts",
               dataset.sequences() == wanted.at("sequence_count").get<int64_t>() &&
                   dataset.document_entries() == wanted.at("document_count_field").get<int64_t>() &&
                   dataset.tokens() == wanted.at("tokens").get<int64_t>());
  Ids lengths;
  Ids pointers;
  Ids documents;
  std::vector<Ids> sequences;
  for (int64_t i = 0; i < dataset.sequences(); ++i) {
    lengths.push_back(dataset.sequence_length(i));
    pointers.push_back(dataset.sequence_pointer(i));
    sequences.push_back(dataset.sequence(i));
  }
  for (int64_t i = 0; i < dataset.document_entries(); ++i) {
    documents.push_back(dataset.document_entry(i));
  }
  report.equal(name + ": lengths", lengths == wanted.at("sizes").get<Ids>());
  report.equal(name + ": offsets", pointers == wanted.at("pointers").get<Ids>());
  report.equal(name + ": document entries", documents == wanted.at("doc_idx").get<Ids>());
  report.equal(name + ": sequences", sequences == wanted.at("sequences").get<std::vector<Ids>>());
  report.equal(name + ": full check finds nothing", dataset.check().empty());
  check_stream(wanted, dataset, name, report);
  check_rewriting(dataset, name, report);
}

void check_vocab(const json& wanted, const data::CharVocab& vocab, const std::string& name,
                 Report& report) {
  std::vector<uint32_t> code_points(vocab.characters().begin(), vocab.characters().end());
  report.equal(name + ": vocabulary",
               code_points == wanted.at("vocab_code_points").get<std::vector<uint32_t>>());
  using data::TextEncoding;
  for (const auto& [key, encoding] : {std::pair{"vocab_json_utf8_hex", TextEncoding::kUtf8},
                                      std::pair{"vocab_json_utf16_hex", TextEncoding::kUtf16le}}) {
    if (!wanted.contains(key)) continue;
    const std::string bytes = from_hex(wanted.at(key).get<std::string>());
    report.equal(fmt::format("{}: {}", name, key), vocab.to_json(encoding) == bytes);
    const auto read = data::CharVocab::parse(std::as_bytes(std::span(bytes)), key);
    report.equal(fmt::format("{}: {} read back", name, key),
                 std::ranges::equal(read.characters(), vocab.characters()));
  }
}

/// The originals draw below tokens - (ctx_len + 1); many draws of ours must stay below the bound in
/// the file and come near it.
void check_random_bound(const json& wanted, int64_t tokens, const std::string& name,
                        Report& report) {
  if (!wanted.contains("random_offset_upper_bound_exclusive")) return;
  const auto bound = wanted.at("random_offset_upper_bound_exclusive").get<int64_t>();
  const data::Sampler sampler({.kind = data::SamplerKind::kRandom}, tokens,
                              wanted.at("ctx_len").get<int64_t>(), name);
  int64_t largest = 0;
  for (uint64_t n = 1; n <= 20000; ++n) largest = std::max(largest, sampler.offset(n));
  report.equal(name + ": bound of random offsets",
               largest < bound && largest + std::max<int64_t>(1, bound / 500) >= bound);
}

void check_text(const json& wanted, const fs::path& path, data::SourceKind kind,
                const std::string& name, Report& report) {
  write_bytes(path, from_hex(wanted.at("file_hex").get<std::string>()));
  const auto source = data::open_tokens({.path = path.string(), .kind = kind});
  const Ids ids = read_all(*source);
  report.equal(name + ": ids", ids == wanted.at("ids").get<Ids>());
  report.equal(name + ": decoding and encoding give the ids back",
               source->vocab()->encode(source->vocab()->decode(ids)) == ids);
  if (wanted.contains("chars")) {
    report.equal(name + ": characters", source->size() == wanted.at("chars").get<int64_t>());
  }
  if (wanted.contains("vocab_size")) {
    report.equal(name + ": vocabulary size",
                 source->vocab_size() == wanted.at("vocab_size").get<int64_t>());
  }
  check_vocab(wanted, *source->vocab(), name, report);
  check_random_bound(wanted, source->size(), name, report);
}

/// MD5 (RFC 1321), for sums that stand in golden files; nothing else here uses it.
std::string md5_hex(std::string text) {
  constexpr std::array<std::array<int, 4>, 4> kTurns{
      {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}}};
  const uint64_t bits = uint64_t{text.size()} * 8;
  text += '\x80';
  while (text.size() % 64 != 56) text += '\0';
  for (int i = 0; i < 8; ++i) text += static_cast<char>(bits >> (8 * i) & 0xFF);
  std::array<uint32_t, 4> state{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
  for (size_t at = 0; at < text.size(); at += 64) {
    auto [a, b, c, d] = state;
    for (uint32_t i = 0; i < 64; ++i) {
      const uint32_t round = i / 16;
      const uint32_t mixed = round == 0   ? (b & c) | (~b & d)
                             : round == 1 ? (d & b) | (~d & c)
                             : round == 2 ? b ^ c ^ d
                                          : c ^ (b | ~d);
      const uint32_t word = (round == 0   ? i
                             : round == 1 ? 5 * i + 1
                             : round == 2 ? 3 * i + 5
                                          : 7 * i) %
                            16;
      uint32_t value = 0;
      for (uint32_t k = 0; k < 4; ++k) {
        value |= uint32_t{static_cast<unsigned char>(text[at + 4 * word + k])} << (8 * k);
      }
      const auto sine = static_cast<uint32_t>(4294967296.0 * std::fabs(std::sin(i + 1.0)));
      const uint32_t sum = a + mixed + sine + value;
      a = std::exchange(
          d, std::exchange(c, std::exchange(b, b + std::rotl(sum, kTurns[round][i % 4]))));
    }
    state = {state[0] + a, state[1] + b, state[2] + c, state[3] + d};
  }
  std::string hex;
  for (const uint32_t word : state) {
    for (int k = 0; k < 4; ++k) hex += fmt::format("{:02x}", word >> (8 * k) & 0xFF);
  }
  return hex;
}

void check_dummy(const json& wanted, Report& report) {
  const auto source = data::open_tokens({.path = "", .kind = data::SourceKind::kDummy});
  const std::string text = source->vocab()->decode(read_all(*source));
  std::string characters;
  for (const char32_t c : source->vocab()->characters()) data::append_utf8(characters, c);
  report.equal("dummy: characters", std::ssize(text) == wanted.at("chars").get<int64_t>());
  report.equal("dummy: vocabulary", characters == wanted.at("vocab").get<std::string>());
  for (const auto& [key, value] : wanted.items()) {
    if (key.starts_with("first_"))
      report.equal("dummy: head", text.starts_with(value.get<std::string>()));
    if (key.starts_with("last_"))
      report.equal("dummy: end", text.ends_with(value.get<std::string>()));
    if (key.starts_with("md5"))
      report.equal("dummy: MD5", md5_hex(text) == value.get<std::string>());
  }
}

void check_npy(const json& wanted, const fs::path& path, Report& report) {
  const std::string name = "npy " + wanted.value("name", "");
  const std::string bytes = from_hex(wanted.at("npy_hex").get<std::string>());
  write_bytes(path, bytes);
  const data::NpyFile file(path);
  Ids ids(static_cast<size_t>(file.view().size()));
  file.view().read(0, ids);
  report.equal(name + ": ids", ids == wanted.at("ids").get<Ids>());
  const fs::path again = path.string() + ".again";
  data::write_npy(again, ids, file.view().type);
  report.equal(name + ": written again", read_bytes(again) == bytes);
}

void check_sampler_case(const json& wanted, const std::string& name, Report& report) {
  const auto tokens = wanted.at("data_len").get<int64_t>();
  const auto ctx_len = wanted.at("ctx_len").get<int64_t>();
  const data::SamplerConfig config{.kind = data::SamplerKind::kCubic,
                                   .magic_prime = wanted.at("magic_prime").get<int64_t>(),
                                   .shift = wanted.value("shift", int64_t{0}),
                                   .random_steps = wanted.value("random_steps", int64_t{0})};
  const data::Sampler sampler(config, tokens, ctx_len, name);
  if (wanted.contains("factor")) {
    report.equal(name + ": factor", sampler.factor() == wanted.at("factor").get<int64_t>());
  }
  const auto world_size = wanted.at("world_size").get<int64_t>();
  const auto samples = wanted.value("samples_per_epoch", data::kSamplesPerEpoch);
  for (const json& stream : wanted.at("streams")) {
    const auto epoch = stream.at("epoch").get<int64_t>();
    const auto rank = stream.at("rank").get<int64_t>();
    const Ids offsets = stream.at("offsets").get<Ids>();
    bool same = true;
    for (int64_t i = 0; i < std::ssize(offsets); ++i) {
      const uint64_t n = data::sample_ordinal(epoch, i, world_size, rank, samples);
      const int64_t ours = sampler.offset(n);
      // The originals' random offsets come from another generator; only their range can agree.
      const bool random = n < static_cast<uint64_t>(config.random_steps);
      same = same && (random ? ours >= 0 && ours < tokens - (ctx_len + 1)
                             : ours == offsets[static_cast<size_t>(i)]);
    }
    report.equal(fmt::format("{}: offsets of epoch {} rank {}", name, epoch, rank), same);
  }
}

}  // namespace

void check_binidx(const fs::path& file, Report& report) {
  const json golden = read_json(file);
  for (const json& wanted : golden.at("files")) {
    const auto name = wanted.at("file").get<std::string>();
    const data::IndexedPaths beside = data::indexed_paths(file.parent_path() / name);
    const bool has_hex = wanted.contains("idx_hex") && wanted.contains("bin_hex");
    if (fs::exists(beside.idx) && fs::exists(beside.bin)) {
      check_pair(wanted, file.parent_path() / name, name, report);
      if (!has_hex) continue;
      report.equal(name + ": bytes of both files",
                   read_bytes(beside.idx) == from_hex(wanted.at("idx_hex").get<std::string>()) &&
                       read_bytes(beside.bin) == from_hex(wanted.at("bin_hex").get<std::string>()));
    } else {
      const TempFolder folder;
      write_bytes(folder / "pair.idx", from_hex(wanted.at("idx_hex").get<std::string>()));
      write_bytes(folder / "pair.bin", from_hex(wanted.at("bin_hex").get<std::string>()));
      check_pair(wanted, folder / "pair", name, report);
    }
  }
}

void check_jsonl_pair(const fs::path& file, Report& report) {
  const data::IndexedDataset dataset(file);
  const std::string name = file.stem().string();
  report.equal(name + ": full check finds nothing", dataset.check().empty());
  check_rewriting(dataset, name, report);
}

void check_charlevel(const fs::path& file, Report& report) {
  const json golden = read_json(file);
  const TempFolder folder;
  const auto check_list = [&](const char* key, auto&& check) {
    if (!golden.contains(key)) return;
    for (const json& wanted : golden.at(key)) check(wanted, wanted.value("name", std::string(key)));
  };
  check_list("char_level", [&](const json& wanted, const std::string& name) {
    check_text(wanted, folder / "text", data::SourceKind::kCharacters, name, report);
  });
  check_list("utf16le", [&](const json& wanted, const std::string& name) {
    check_text(wanted, folder / "text", data::SourceKind::kUtf16leCharacters, "utf16le " + name,
               report);
  });
  check_list("npy", [&](const json& wanted, const std::string& /*name*/) {
    check_npy(wanted, folder / "array.npy", report);
  });
  if (golden.contains("dummy")) check_dummy(golden.at("dummy"), report);
}

void check_sampler(const fs::path& file, Report& report) {
  const json golden = read_json(file);
  int number = 0;
  for (const json& wanted : golden.at("cases")) {
    const std::string name =
        fmt::format("case {} ({}, p {})", number++, wanted.value("source", "?"),
                    wanted.at("magic_prime").get<int64_t>());
    check_sampler_case(wanted, name, report);
  }
}

void check_qa_mask(const fs::path& file, Report& report) {
  const json golden = read_json(file);
  const auto ctx_len = golden.at("ctx_len").get<int64_t>();
  const data::Sampler sampler(
      {.kind = data::SamplerKind::kCubic, .magic_prime = golden.at("magic_prime").get<int64_t>()},
      golden.at("data_len").get<int64_t>(), ctx_len, "qa_mask");
  for (const json& sample : golden.at("samples")) {
    const auto ordinal = sample.at("ordinal").get<uint64_t>();
    const std::string name = fmt::format("ordinal {}", ordinal);
    const data::QaDraw draw = data::qa_draw(ordinal);
    if (!draw.general) {
      report.equal(name + ": offset",
                   sampler.offset(draw.ordinal) == sample.at("offset").get<int64_t>());
    }
    const Ids window = sample.at("window").get<Ids>();
    std::vector<float> mask(static_cast<size_t>(ctx_len));
    const bool any = data::qa_mask(window, mask);
    // No mask in the file: the original found nothing to learn and took a window of the general
    // corpus.
    const json& wanted = sample.at("mask");
    report.equal(name + ": has an answer", any != wanted.is_null());
    if (!wanted.is_null()) report.equal(name + ": mask", mask == wanted.get<std::vector<float>>());
  }
}

}  // namespace rwkv::golden

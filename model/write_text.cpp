#include "model/write_text.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <array>
#include <cmath>
#include <memory>

#include "model/text_stream.h"

namespace rwkv::model {
namespace {

GenerateOptions with_vocabulary(const WriteOptions& options, const data::Vocabulary& vocabulary) {
  GenerateOptions generate = options.generate;
  if (const auto end = vocabulary.end_of_text()) {
    (options.ignore_end_of_text ? generate.banned_tokens : generate.stop_tokens).push_back(*end);
  }
  // Models may have more rows than the vocabulary has tokens (50304 for 50277).
  generate.adjust = [size = vocabulary.size(), first = options.generate.adjust](
                        int64_t i, at::Tensor& logits) {
    if (first) first(i, logits);
    if (size < logits.numel()) logits.slice(0, size).fill_(-INFINITY);
  };
  if (!generate.weight_of) {
    generate.weight_of = [&vocabulary, rule = generate.penalties.penalty_weight](int64_t id) {
      return penalty_weight(rule, id, vocabulary.decode(std::array{id}));
    };
  }
  return generate;
}

/// One text being written.
class Writer {
 public:
  Writer(LanguageModel& model, const data::Vocabulary& vocabulary, const WriteOptions& options,
         Context& context)
      : options_(with_vocabulary(options, vocabulary)),
        stream_(vocabulary, options.stop_strings, context.tokens),
        generator_(model, options_, context) {}
  Writer(const Writer&) = delete;  // the generator refers to options_
  Writer& operator=(const Writer&) = delete;
  ~Writer() = default;

  /// Draws a token. False when the text has ended.
  bool step(const Emit& emit) {
    if (written_.tokens >= options_.tokens) return false;
    const auto id = generator_.next();
    if (!id) return end(StopReason::kEndOfText);
    ++written_.tokens;
    const std::string ready = stream_.add(*id);
    const bool go_on = !emit || emit(ready);
    if (stream_.stopped()) return end(StopReason::kStopString);
    return go_on || end(StopReason::kInterrupted);
  }
  Written finish(const Emit& emit) {
    if (const std::string rest = stream_.finish(); !rest.empty() && emit) emit(rest);
    generator_.settle();
    written_.text = stream_.text();
    return written_;
  }
  [[nodiscard]] Generator* generator() { return &generator_; }

 private:
  bool end(StopReason reason) {
    written_.reason = reason;
    return false;
  }

  GenerateOptions options_;
  TextStream stream_;
  Generator generator_;
  Written written_;
};

}  // namespace

Written write_text(LanguageModel& model, const data::Vocabulary& vocabulary,
                   const WriteOptions& options, Context& context, const Emit& emit) {
  Writer writer(model, vocabulary, options, context);
  while (writer.step(emit)) continue;
  return writer.finish(emit);
}

std::vector<Written> write_texts(LanguageModel& model, const data::Vocabulary& vocabulary,
                                 const WriteOptions& options, std::span<Context> contexts,
                                 std::span<const uint64_t> seeds) {
  TORCH_CHECK(contexts.size() == seeds.size(), "write_texts: ", contexts.size(), " contexts, ",
              seeds.size(), " seeds");
  std::vector<std::unique_ptr<Writer>> writers;
  for (size_t i = 0; i < contexts.size(); ++i) {
    WriteOptions own = options;
    own.generate.seed = seeds[i];
    writers.push_back(std::make_unique<Writer>(model, vocabulary, own, contexts[i]));
  }
  std::vector<Writer*> active;
  for (const auto& writer : writers) active.push_back(writer.get());
  while (!active.empty()) {
    std::vector<Generator*> generators;
    for (Writer* writer : active) generators.push_back(writer->generator());
    Generator::settle_all(model, generators);
    std::erase_if(active, [](Writer* writer) { return !writer->step({}); });
  }
  std::vector<Written> written;
  for (const auto& writer : writers) written.push_back(writer->finish({}));
  return written;
}

std::string question_prompt(std::string_view question) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = question.find_first_not_of(kBlank);
  const size_t last = question.find_last_not_of(kBlank);
  const auto trimmed = first == std::string_view::npos ? std::string_view()
                                                       : question.substr(first, last - first + 1);
  return fmt::format("\nQ & A\n\nQuestion:\n{}\n\nDetailed Expert Answer:\n", trimmed);
}

}  // namespace rwkv::model

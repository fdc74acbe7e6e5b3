#include "trainer/distributed/agreement.h"

#include <torch/torch.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <span>

#include "data/base/crc32c.h"
#include "data/base/error.h"
#include "trainer/exit_code.h"

namespace rwkv::trainer {
namespace {

/// The lowest rank that has the text of most ranks.
size_t rank_of_the_majority(const std::vector<std::string>& texts) {
  std::map<std::string, int64_t> count;
  for (const std::string& text : texts) ++count[text];
  size_t best = 0;
  for (size_t r = 0; r < texts.size(); ++r) {
    if (count[texts[r]] > count[texts[best]]) best = r;
  }
  return best;
}

std::string names_of(const RankGroup& group, const std::vector<int64_t>& ranks) {
  std::string names;
  for (const int64_t rank : ranks) {
    names += (names.empty() ? "" : ", ") + group.name_of(rank);
  }
  return names;
}

}  // namespace

std::vector<int64_t> ranks_that_differ(const std::vector<std::string>& texts) {
  std::vector<int64_t> ranks;
  const std::string& right = texts[rank_of_the_majority(texts)];
  for (size_t r = 0; r < texts.size(); ++r) {
    if (texts[r] != right) ranks.push_back(static_cast<int64_t>(r));
  }
  return ranks;
}

void check_world_size(const RunConfig& config, int64_t world_size) {
  int64_t common = config.train.real_bsz();
  for (const Segment& segment : config.schedule.segments) {
    common = std::gcd(common, segment.real_bsz.value_or(common));
  }
  if (common % world_size == 0) return;
  std::string valid;
  for (int64_t n = 1; n <= common; ++n) {
    if (common % n == 0) valid += fmt::format("{}{}", valid.empty() ? "" : ", ", n);
  }
  throw CommonError(fmt::format(
      "train.micro_bsz: {} ranks cannot share the {} windows of a step evenly; start {} of them, "
      "or "
      "change train.micro_bsz or train.grad_accum",
      world_size, common, valid));
}

void agree_on_config(RankGroup& group, const RunConfig& config) {
  const auto texts = group.exchange("the comparison of configurations", dump_yaml(config));
  const std::vector<int64_t> others = ranks_that_differ(texts);
  if (others.empty()) return;
  const size_t right = rank_of_the_majority(texts);
  const auto parse = [&](size_t rank) { return parse_run_config(texts[rank], "configuration"); };
  const auto odd = static_cast<size_t>(others.front());
  const std::vector<Difference> differ = differences(parse(right), parse(odd));
  const Difference first =
      differ.empty() ? Difference{"the configuration", "", ""} : differ.front();
  throw CommonError(fmt::format("{}: {} has {}, {} has {}; give all ranks the same configuration",
                                first.key, group.name_of(others.front()), first.new_value,
                                group.name_of(static_cast<int64_t>(right)), first.old_value));
}

void agree_on(RankGroup& group, const std::string& what, const std::string& text,
              const std::string& mend) {
  const auto texts = group.exchange("the comparison of " + what, text);
  const std::vector<int64_t> others = ranks_that_differ(texts);
  if (others.empty()) return;
  throw CommonError(fmt::format("{}: {} has {}, the others have {}; {}", what,
                                names_of(group, others),
                                printable(texts[static_cast<size_t>(others.front())]),
                                printable(texts[rank_of_the_majority(texts)]), mend));
}

std::string weights_hash(model::LanguageModel& model) {
  uint32_t crc = 0;
  for (const auto& entry : model.named_parameters()) {
    const at::Tensor value = entry.value().detach().contiguous().cpu();
    const auto* bytes = static_cast<const std::byte*>(value.const_data_ptr());
    crc = crc32c(std::span(bytes, value.nbytes()), crc);
  }
  return fmt::format("{:08x}", crc);
}

void check_for_drift(RankGroup& group, model::LanguageModel& model, int64_t step) {
  if (group.is_alone()) return;
  const auto hashes = group.exchange("the comparison of weights", weights_hash(model));
  const std::vector<int64_t> others = ranks_that_differ(hashes);
  if (others.empty()) return;
  std::string text = fmt::format("step {}: the weights of {} differ from those of the others (",
                                 step, names_of(group, others));
  for (size_t r = 0; r < hashes.size(); ++r) {
    text += fmt::format("{}rank {}: {}", r == 0 ? "" : ", ", r, hashes[r]);
  }
  throw PeerLostError(text +
                      "); nothing was saved since they did. Check that machine's memory; the same "
                      "command goes on from the newest checkpoint, if there is one");
}

}  // namespace rwkv::trainer

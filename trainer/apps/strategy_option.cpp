#include "model/inference/strategy.h"
#include "trainer/apps/commands.h"

namespace rwkv::apps {

void add_strategy_option(CLI::App& command, std::string& strategy) {
  if (strategy.empty()) strategy = model::kDefaultStrategy;
  command
      .add_option("--strategy", strategy,
                  "Precision and place of the weights by layer: fp32, bf16, fp16, i8, i8-seed, or "
                  "stages as in 'cpu bf16 *10 -> cpu fp32i8'; 'cpu fp32 *4+' keeps 4 layers in "
                  "memory and reads the others from the file")
      ->capture_default_str();
}

}  // namespace rwkv::apps

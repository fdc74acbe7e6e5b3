#pragma once

#include <string>
#include <vector>

#include "tests/model/formats_support.h"

// Malformed weight files, made the same way each time, and the message that a user must get.
namespace rwkv::formats::testing {

struct MalformedGroup {
  std::string name;
  std::vector<Case> cases;
};

/// torch.save's zip archive and its pickle.
std::vector<MalformedGroup> malformed_pth();
/// torch.save before PyTorch 1.6.
std::vector<Case> malformed_legacy_pth();
std::vector<Case> malformed_safetensors();
/// Web pages, archives, token files and others that are taken for weights.
std::vector<Case> files_of_other_kinds();

/// Odd but valid files, which must load.
std::vector<Case> controls_that_load();

}  // namespace rwkv::formats::testing

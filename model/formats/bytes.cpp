#include "model/formats/bytes.h"

#include <cstdint>

namespace rwkv::formats {
namespace {

struct Lead {
  size_t continuations;
  uint32_t bits;
  uint32_t smallest;  // below this the form is overlong
};

bool read_lead(uint32_t byte, Lead& lead) {
  if (byte < 0x80) {
    lead = {0, byte, 0};
  } else if ((byte & 0xE0U) == 0xC0) {
    lead = {1, byte & 0x1FU, 0x80};
  } else if ((byte & 0xF0U) == 0xE0) {
    lead = {2, byte & 0x0FU, 0x800};
  } else if ((byte & 0xF8U) == 0xF0) {
    lead = {3, byte & 0x07U, 0x10000};
  } else {
    return false;
  }
  return true;
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    Lead lead{};
    if (!read_lead(static_cast<unsigned char>(text[i]), lead)) return false;
    if (text.size() - i <= lead.continuations) return false;
    uint32_t code = lead.bits;
    for (size_t k = 1; k <= lead.continuations; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if ((byte & 0xC0U) != 0x80) return false;
      code = (code << 6U) | (byte & 0x3FU);
    }
    if (code < lead.smallest || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
    i += 1 + lead.continuations;
  }
  return true;
}

}  // namespace rwkv::formats

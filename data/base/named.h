#pragma once

#include <array>
#include <cstddef>
#include <stdexcept>
#include <string_view>

namespace rwkv {

/// One value of an enumeration and its word in the YAML file.
template <typename E>
struct Named {
  E value;
  std::string_view name;
};
template <typename E>
Named(E, std::string_view) -> Named<E>;  // clang 14 deduces no aggregates

/// The word of `value`.
template <typename E, size_t N>
constexpr std::string_view name_of(const std::array<Named<E>, N>& names, E value) {
  for (const Named<E>& entry : names) {
    if (entry.value == value) return entry.name;
  }
  throw std::logic_error("a value of an enumeration has no name");
}

}  // namespace rwkv

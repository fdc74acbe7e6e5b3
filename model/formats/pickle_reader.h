#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

enum class PickleKind : uint8_t {
  none,
  boolean,
  integer,
  big_integer,  // more than 64 bits: kept as its little-endian bytes
  real,
  string,
  list,
  tuple,
  dict,
  global,
  storage,
  tensor,
};

/// One value. Numbers are inside, everything else is a place in the tables of its Pickle, so that
/// objects are shared by reference, a list may even hold itself, and nothing is destroyed by
/// recursion.
struct PickleValue {
  PickleKind kind = PickleKind::none;
  int64_t bits = 0;

  [[nodiscard]] bool is(PickleKind other) const { return kind == other; }
  [[nodiscard]] double real() const { return std::bit_cast<double>(bits); }
  [[nodiscard]] size_t place() const { return static_cast<size_t>(bits); }
};

/// A part of a storage, in elements. Nothing has been checked.
struct PickleStorageView {
  int64_t offset = 0;
  int64_t numel = 0;
};

/// A storage that a pickle refers to: `key` names the archive entry "data/<key>".
struct PickleStorage {
  DType dtype = DType::f32;
  std::string key;
  int64_t numel = 0;
  std::optional<PickleStorageView> view = {};  // legacy files: this part of it is meant
};

/// The arguments of _rebuild_tensor_v2 as the file has them; nothing but their types has been
/// checked.
struct PickleTensor {
  size_t storage = 0;  // place in Pickle::storages
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

/// What a pickle describes. Strings view the bytes it was read from. Walk it with a bound on the
/// depth: values may be nested without limit and may contain themselves.
struct Pickle {
  PickleValue root;
  size_t bytes_used = 0;  // up to and with STOP
  std::vector<std::string_view> strings;
  std::vector<std::vector<PickleValue>> sequences;  // dicts as key, value, key, value, ...
  std::vector<PickleStorage> storages;
  std::vector<PickleTensor> tensors;

  [[nodiscard]] std::string_view string(PickleValue value) const {
    return strings.at(value.place());
  }
  [[nodiscard]] const std::vector<PickleValue>& items(PickleValue value) const {
    return sequences.at(value.place());
  }
  [[nodiscard]] const PickleTensor& tensor(PickleValue value) const {
    return tensors.at(value.place());
  }
  /// The value under a string key of a dict (the last one, as in Python), or nothing.
  [[nodiscard]] std::optional<PickleValue> lookup(PickleValue dict, std::string_view key) const;
};

/// Reads the pickle at the start of `bytes`, protocols 2 to 5, as far as weight files use them.
/// Nothing in it is ever called: the few globals that rebuild tensors are known by name, any other
/// is refused by name and position. Does not recurse; stack, objects and memo are bounded, memory
/// is proportional to `bytes`. Throws UserError; `source` names the file in messages.
Pickle read_pickle(std::span<const std::byte> bytes, const std::string& source);

}  // namespace rwkv::formats

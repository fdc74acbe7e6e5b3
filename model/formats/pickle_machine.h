#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/pickle_reader.h"

namespace rwkv::formats {

/// The stack machine of Python's pickle module (Lib/pickletools.py describes each opcode).
class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> bytes, const std::string& source)
      : bytes_(bytes), source_(source) {}

  Pickle run();

 private:
  // Each handles the opcodes of one group and returns false for all others.
  bool run_number(uint8_t op);
  bool run_string(uint8_t op);
  bool run_memo(uint8_t op);
  bool run_tuple(uint8_t op);
  bool run_container(uint8_t op);
  bool run_object(uint8_t op);

  std::span<const std::byte> take(uint64_t count);
  std::string_view take_line();
  template <typename T>
  T take_number() {
    return load_le<T>(take(sizeof(T)), 0);
  }

  void push(PickleValue value);
  void push_integer(std::span<const std::byte> twos_complement);
  void push_string(std::string_view text);
  void push_sequence(PickleKind kind, std::vector<PickleValue> items);
  void push_tuple(size_t count);
  void push_global(std::string_view module, std::string_view name);
  PickleValue pop();
  std::vector<PickleValue> pop_to_mark();
  void remember(uint32_t index);
  void recall(uint32_t index);
  void add_items(PickleKind container, std::vector<PickleValue> items);

  void skip_prologue(uint8_t op);
  void load_storage();
  PickleStorageView storage_view(PickleValue value);
  void call();
  void call_ordered_dict(const std::vector<PickleValue>& arguments);
  void call_rebuild_tensor(const std::vector<PickleValue>& arguments, size_t fewest, size_t most);
  std::vector<int64_t> integers(PickleValue tuple, std::string_view what);
  PickleValue expect(PickleValue value, PickleKind kind, std::string_view what);
  void count_objects(size_t more);

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
    user_error("{}: byte {} of the pickle: {}; save the file again as a plain dict of tensors",
               source_, op_at_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::span<const std::byte> bytes_;
  const std::string& source_;
  Pickle out_;
  std::vector<PickleValue> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint32_t, PickleValue> memo_;
  size_t at_ = 0;
  size_t op_at_ = 0;
  size_t objects_ = 0;
};

}  // namespace rwkv::formats

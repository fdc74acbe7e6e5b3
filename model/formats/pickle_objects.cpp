#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/base/error.h"
#include "model/formats/pickle_machine.h"

// The globals that a weight file may name, and what they build.
namespace rwkv::formats {
namespace {

constexpr size_t kMaxRank = 64;

enum class Call : uint8_t { none, ordered_dict, tensor_v2, tensor_v1, parameter, size };

struct Global {
  std::string_view module;
  std::string_view name;
  Call call = Call::none;
  std::optional<DType> dtype = {};  // of a storage type
};

// All that a weight file may name. A list of what is dangerous would never be complete.
constexpr Global kGlobals[] = {
    {"collections", "OrderedDict", Call::ordered_dict},
    {"torch._utils", "_rebuild_tensor_v2", Call::tensor_v2},
    {"torch._utils", "_rebuild_tensor", Call::tensor_v1},
    {"torch._utils", "_rebuild_parameter", Call::parameter},
    {"torch", "Size", Call::size},
    {"torch", "FloatStorage", Call::none, DType::f32},
    {"torch", "DoubleStorage", Call::none, DType::f64},
    {"torch", "HalfStorage", Call::none, DType::f16},
    {"torch", "BFloat16Storage", Call::none, DType::bf16},
    {"torch", "LongStorage", Call::none, DType::i64},
    {"torch", "IntStorage", Call::none, DType::i32},
    {"torch", "ShortStorage", Call::none, DType::i16},
    {"torch", "CharStorage", Call::none, DType::i8},
    {"torch", "ByteStorage", Call::none, DType::u8},
    {"torch", "BoolStorage", Call::none, DType::boolean},
};

}  // namespace

void PickleMachine::push_global(std::string_view module, std::string_view name) {
  for (size_t i = 0; i < std::size(kGlobals); ++i) {
    if (kGlobals[i].module == module && kGlobals[i].name == name) {
      push({PickleKind::global, static_cast<int64_t>(i)});
      return;
    }
  }
  user_error(
      "{}: byte {} of the pickle: asks for {}.{}, which no weight file needs and which could run "
      "code; "
      "refused. Use a file from a source you trust, saved as a plain dict of tensors",
      source_, op_at_, printable(module, 100), printable(name, 100));
}

/// BINPERSID: ("storage", type, key, location, numel[, view]). The location (cuda:0) is of no
/// interest.
void PickleMachine::load_storage() {
  const PickleValue id = expect(pop(), PickleKind::tuple, "a storage");
  const std::vector<PickleValue>& parts = out_.items(id);
  if (parts.size() != 5 && parts.size() != 6)
    fail("a storage described by {} values", parts.size());
  expect(parts[0], PickleKind::string, "the word \"storage\"");
  if (out_.string(parts[0]) != "storage") fail("a reference to an unknown kind of object");
  const PickleValue type = expect(parts[1], PickleKind::global, "a storage's type");
  const std::optional<DType> dtype = kGlobals[type.place()].dtype;
  if (!dtype) fail("a storage of type {}", kGlobals[type.place()].name);
  const PickleValue numel = expect(parts[4], PickleKind::integer, "a storage's size");
  PickleStorage storage{.dtype = *dtype, .key = {}, .numel = numel.bits};
  if (parts[2].is(PickleKind::integer)) {  // Python 2
    storage.key = std::to_string(parts[2].bits);
  } else {
    storage.key = out_.string(expect(parts[2], PickleKind::string, "a storage's key"));
  }
  if (parts.size() == 6 && !parts[5].is(PickleKind::none)) storage.view = storage_view(parts[5]);
  count_objects(1);
  out_.storages.push_back(std::move(storage));
  push({PickleKind::storage, static_cast<int64_t>(out_.storages.size() - 1)});
}

/// (key of the view, offset, size)
PickleStorageView PickleMachine::storage_view(PickleValue value) {
  const std::vector<PickleValue>& parts =
      out_.items(expect(value, PickleKind::tuple, "a view of a storage"));
  if (parts.size() != 3) fail("a view of a storage described by {} values", parts.size());
  return {.offset = expect(parts[1], PickleKind::integer, "a view's offset").bits,
          .numel = expect(parts[2], PickleKind::integer, "a view's size").bits};
}

void PickleMachine::call() {
  const PickleValue tuple = expect(pop(), PickleKind::tuple, "a list of arguments");
  const PickleValue function = expect(pop(), PickleKind::global, "a function");
  const std::vector<PickleValue> arguments = out_.items(tuple);
  switch (kGlobals[function.place()].call) {
    case Call::ordered_dict:
      call_ordered_dict(arguments);
      return;
    case Call::tensor_v2:
      call_rebuild_tensor(arguments, 6, 7);
      return;
    case Call::tensor_v1:
      call_rebuild_tensor(arguments, 4, 4);
      return;
    case Call::parameter:
      if (arguments.size() != 3) fail("a parameter made of {} values", arguments.size());
      push(expect(arguments[0], PickleKind::tensor, "a parameter's tensor"));
      return;
    case Call::size:
      if (arguments.size() != 1 ||
          !(arguments[0].is(PickleKind::list) || arguments[0].is(PickleKind::tuple))) {
        fail("a torch.Size of no list");
      }
      push_sequence(PickleKind::tuple, std::vector<PickleValue>(out_.items(arguments[0])));
      return;
    case Call::none:
      break;
  }
  fail("{} is called, which is no function", kGlobals[function.place()].name);
}

void PickleMachine::call_ordered_dict(const std::vector<PickleValue>& arguments) {
  if (arguments.size() > 1) fail("an OrderedDict made of {} values", arguments.size());
  std::vector<PickleValue> items;
  if (arguments.size() == 1) {
    const PickleValue pairs =
        expect(arguments[0], PickleKind::list, "the content of an OrderedDict");
    for (const PickleValue pair : out_.items(pairs)) {
      if (!pair.is(PickleKind::list) && !pair.is(PickleKind::tuple))
        fail("an OrderedDict of no pairs");
      const std::vector<PickleValue>& both = out_.items(pair);
      if (both.size() != 2) fail("an OrderedDict with a pair of {} values", both.size());
      items.insert(items.end(), both.begin(), both.end());
    }
  }
  push_sequence(PickleKind::dict, std::move(items));
}

/// (storage, offset, size, stride[, requires_grad, hooks[, metadata]]); the optional ones are of no
/// interest.
void PickleMachine::call_rebuild_tensor(const std::vector<PickleValue>& arguments, size_t fewest,
                                        size_t most) {
  if (arguments.size() < fewest || arguments.size() > most) {
    fail("a tensor made of {} values", arguments.size());
  }
  const PickleValue storage = expect(arguments[0], PickleKind::storage, "a tensor's storage");
  const PickleValue offset = expect(arguments[1], PickleKind::integer, "a tensor's offset");
  PickleTensor tensor{.storage = storage.place(),
                      .offset = offset.bits,
                      .shape = integers(arguments[2], "a tensor's size"),
                      .strides = integers(arguments[3], "a tensor's stride")};
  count_objects(1 + tensor.shape.size() + tensor.strides.size());
  out_.tensors.push_back(std::move(tensor));
  push({PickleKind::tensor, static_cast<int64_t>(out_.tensors.size() - 1)});
}

std::vector<int64_t> PickleMachine::integers(PickleValue tuple, std::string_view what) {
  const std::vector<PickleValue>& items = out_.items(expect(tuple, PickleKind::tuple, what));
  if (items.size() > kMaxRank) fail("{} has {} dimensions", what, items.size());
  std::vector<int64_t> numbers;
  numbers.reserve(items.size());
  for (const PickleValue item : items) {
    numbers.push_back(expect(item, PickleKind::integer, what).bits);
  }
  return numbers;
}

}  // namespace rwkv::formats

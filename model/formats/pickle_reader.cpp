#include "model/formats/pickle_reader.h"

#include <fmt/format.h>

#include <limits>
#include <unordered_map>
#include <utility>

#include "data/base/error.h"
#include "model/formats/bytes.h"

namespace rwkv::formats {
namespace {

constexpr size_t kMaxStack = 100'000;      // values or marks; a state dict needs two a tensor
constexpr size_t kMaxObjects = 4'000'000;  // objects, items of containers, memo entries, each
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

/// The stack machine of Python's pickle module (Lib/pickletools.py describes each opcode).
class Machine {
 public:
  Machine(std::span<const std::byte> bytes, const std::string& source)
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

Pickle Machine::run() {
  while (true) {
    op_at_ = at_;
    const auto op = take_number<uint8_t>();
    if (op == '.') break;
    if (run_number(op) || run_string(op) || run_memo(op) || run_tuple(op) || run_container(op) ||
        run_object(op)) {
      continue;
    }
    fail("opcode 0x{:02x} does not occur in weight files", op);
  }
  if (stack_.size() != 1 || !marks_.empty()) {
    fail("it ends with {} values and {} open marks instead of one value", stack_.size(),
         marks_.size());
  }
  out_.root = stack_.back();
  out_.bytes_used = at_;
  return std::move(out_);
}

std::span<const std::byte> Machine::take(uint64_t count) {
  if (count > bytes_.size() - at_) {
    fail("needs {} bytes more where {} are left (cut short)", count, bytes_.size() - at_);
  }
  const auto taken = bytes_.subspan(at_, static_cast<size_t>(count));
  at_ += taken.size();
  return taken;
}

std::string_view Machine::take_line() {
  const std::string_view rest = as_text(bytes_.subspan(at_));
  const size_t length = rest.find('\n');
  if (length == std::string_view::npos) fail("a name without an end of line (cut short)");
  at_ += length + 1;
  return rest.substr(0, length);
}

void Machine::push(PickleValue value) {
  if (stack_.size() >= kMaxStack) fail("more than {} values nested in each other", kMaxStack);
  stack_.push_back(value);
}

PickleValue Machine::pop() {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) fail("takes a value from an empty stack");
  const PickleValue value = stack_.back();
  stack_.pop_back();
  return value;
}

std::vector<PickleValue> Machine::pop_to_mark() {
  if (marks_.empty()) fail("goes back to a mark that was never set");
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<PickleValue> items(first, stack_.end());
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return items;
}

void Machine::count_objects(size_t more) {
  objects_ += more;
  if (objects_ > kMaxObjects) fail("more than {} objects", kMaxObjects);
}

PickleValue Machine::expect(PickleValue value, PickleKind kind, std::string_view what) {
  if (!value.is(kind)) fail("{} has another type than expected", what);
  return value;
}

// --- numbers ---

bool Machine::run_number(uint8_t op) {
  switch (op) {
    case 'N':
      push({});
      return true;
    case 0x88:
    case 0x89:
      push({PickleKind::boolean, op == 0x88 ? 1 : 0});
      return true;
    case 'K':
      push({PickleKind::integer, take_number<uint8_t>()});
      return true;
    case 'M':
      push({PickleKind::integer, take_number<uint16_t>()});
      return true;
    case 'J':
      push({PickleKind::integer, take_number<int32_t>()});
      return true;
    case 0x8a:
      push_integer(take(take_number<uint8_t>()));
      return true;
    case 'G':  // the one big-endian number
      push({PickleKind::real, static_cast<int64_t>(__builtin_bswap64(take_number<uint64_t>()))});
      return true;
    default:
      return false;
  }
}

void Machine::push_integer(std::span<const std::byte> twos_complement) {
  if (twos_complement.size() > sizeof(int64_t)) {
    count_objects(1);
    out_.strings.push_back(as_text(twos_complement));
    push({PickleKind::big_integer, static_cast<int64_t>(out_.strings.size() - 1)});
    return;
  }
  const bool negative =
      !twos_complement.empty() && (twos_complement.back() & std::byte{0x80}) != std::byte{0};
  int64_t value = negative ? -1 : 0;
  if (!twos_complement.empty()) std::memcpy(&value, twos_complement.data(), twos_complement.size());
  push({PickleKind::integer, value});
}

// --- strings ---

bool Machine::run_string(uint8_t op) {
  switch (op) {
    case 'X':
    case 'T':
      push_string(as_text(take(take_number<uint32_t>())));
      return true;
    case 0x8c:
    case 'U':  // Python 2 writes names as byte strings
    case 'C':
      push_string(as_text(take(take_number<uint8_t>())));
      return true;
    case 0x8d:
      push_string(as_text(take(take_number<uint64_t>())));
      return true;
    default:
      return false;
  }
}

void Machine::push_string(std::string_view text) {
  count_objects(1);
  out_.strings.push_back(text);
  push({PickleKind::string, static_cast<int64_t>(out_.strings.size() - 1)});
}

// --- memo ---

bool Machine::run_memo(uint8_t op) {
  switch (op) {
    case 'q':
      remember(take_number<uint8_t>());
      return true;
    case 'r':
      remember(take_number<uint32_t>());
      return true;
    case 0x94:
      remember(static_cast<uint32_t>(memo_.size()));
      return true;
    case 'h':
      recall(take_number<uint8_t>());
      return true;
    case 'j':
      recall(take_number<uint32_t>());
      return true;
    default:
      return false;
  }
}

void Machine::remember(uint32_t index) {
  const PickleValue value = pop();
  stack_.push_back(value);
  memo_[index] = value;
  if (memo_.size() > kMaxObjects) fail("more than {} remembered objects", kMaxObjects);
}

void Machine::recall(uint32_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) fail("refers to object {}, which was never stored", index);
  push(found->second);
}

// --- tuples, lists, dicts ---

bool Machine::run_tuple(uint8_t op) {
  switch (op) {
    case ')':
      push_sequence(PickleKind::tuple, {});
      return true;
    case 't':
      push_sequence(PickleKind::tuple, pop_to_mark());
      return true;
    case 0x85:
    case 0x86:
    case 0x87:
      push_tuple(op - size_t{0x84});
      return true;
    default:
      return false;
  }
}

void Machine::push_sequence(PickleKind kind, std::vector<PickleValue> items) {
  count_objects(1 + items.size());
  out_.sequences.push_back(std::move(items));
  push({kind, static_cast<int64_t>(out_.sequences.size() - 1)});
}

void Machine::push_tuple(size_t count) {
  std::vector<PickleValue> items(count);
  for (size_t i = count; i-- > 0;) items[i] = pop();
  push_sequence(PickleKind::tuple, std::move(items));
}

bool Machine::run_container(uint8_t op) {
  switch (op) {
    case '(':
      if (marks_.size() >= kMaxStack) fail("more than {} values nested in each other", kMaxStack);
      marks_.push_back(stack_.size());
      return true;
    case '}':
      push_sequence(PickleKind::dict, {});
      return true;
    case ']':
      push_sequence(PickleKind::list, {});
      return true;
    case 'a':
      add_items(PickleKind::list, {pop()});
      return true;
    case 'e':
      add_items(PickleKind::list, pop_to_mark());
      return true;
    case 's': {
      const PickleValue value = pop();
      add_items(PickleKind::dict, {pop(), value});
      return true;
    }
    case 'u':
      add_items(PickleKind::dict, pop_to_mark());
      return true;
    default:
      return false;
  }
}

void Machine::add_items(PickleKind container, std::vector<PickleValue> items) {
  const PickleValue target = pop();
  stack_.push_back(target);
  expect(target, container,
         container == PickleKind::dict ? "the target of a dict item" : "the target of a list item");
  if (container == PickleKind::dict && items.size() % 2 != 0) fail("a dict key without a value");
  count_objects(items.size());
  std::vector<PickleValue>& all = out_.sequences[target.place()];
  all.insert(all.end(), items.begin(), items.end());
}

// --- globals and what they build ---

bool Machine::run_object(uint8_t op) {
  switch (op) {
    case 0x80:
    case 0x95:
      skip_prologue(op);
      return true;
    case 'c': {
      const std::string_view module = take_line();
      push_global(module, take_line());
      return true;
    }
    case 0x93: {
      const PickleValue name = expect(pop(), PickleKind::string, "the name of a global");
      const PickleValue module = expect(pop(), PickleKind::string, "the module of a global");
      push_global(out_.string(module), out_.string(name));
      return true;
    }
    case 'Q':
      load_storage();
      return true;
    case 'R':
      call();
      return true;
    case 'b': {  // the _metadata of a state dict: dropped
      pop();
      const PickleValue target = expect(pop(), PickleKind::dict, "the object with attributes");
      stack_.push_back(target);
      return true;
    }
    default:
      return false;
  }
}

void Machine::skip_prologue(uint8_t op) {
  if (op == 0x80) {
    const auto protocol = take_number<uint8_t>();
    if (protocol < 2 || protocol > 5) fail("pickle protocol {}, known are 2 to 5", protocol);
    if (op_at_ != 0) fail("a second beginning");
    return;
  }
  const auto frame = take_number<uint64_t>();
  if (frame > bytes_.size() - at_)
    fail("a frame of {} bytes where {} are left", frame, bytes_.size() - at_);
}

void Machine::push_global(std::string_view module, std::string_view name) {
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
void Machine::load_storage() {
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
  if (parts.size() == 6 && !parts[5].is(PickleKind::none))
    fail("a storage that is a view of another");
  PickleStorage storage{.dtype = *dtype, .key = {}, .numel = numel.bits};
  if (parts[2].is(PickleKind::integer)) {  // Python 2
    storage.key = std::to_string(parts[2].bits);
  } else {
    storage.key = out_.string(expect(parts[2], PickleKind::string, "a storage's key"));
  }
  count_objects(1);
  out_.storages.push_back(std::move(storage));
  push({PickleKind::storage, static_cast<int64_t>(out_.storages.size() - 1)});
}

void Machine::call() {
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

void Machine::call_ordered_dict(const std::vector<PickleValue>& arguments) {
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
void Machine::call_rebuild_tensor(const std::vector<PickleValue>& arguments, size_t fewest,
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

std::vector<int64_t> Machine::integers(PickleValue tuple, std::string_view what) {
  const std::vector<PickleValue>& items = out_.items(expect(tuple, PickleKind::tuple, what));
  if (items.size() > kMaxRank) fail("{} has {} dimensions", what, items.size());
  std::vector<int64_t> numbers;
  for (const PickleValue item : items) {
    numbers.push_back(expect(item, PickleKind::integer, what).bits);
  }
  return numbers;
}

}  // namespace

std::optional<PickleValue> Pickle::lookup(PickleValue dict, std::string_view key) const {
  const std::vector<PickleValue>& all = items(dict);
  for (size_t i = all.size(); i >= 2; i -= 2) {
    const PickleValue name = all[i - 2];
    if (name.is(PickleKind::string) && string(name) == key) return all[i - 1];
  }
  return std::nullopt;
}

Pickle read_pickle(std::span<const std::byte> bytes, const std::string& source) {
  return Machine(bytes, source).run();
}

}  // namespace rwkv::formats

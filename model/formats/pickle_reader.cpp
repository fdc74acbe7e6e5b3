#include "model/formats/pickle_reader.h"

#include <cstring>
#include <utility>

#include "model/formats/bytes.h"
#include "model/formats/pickle_machine.h"

// The opcodes that move values. What globals build from them is in pickle_objects.cpp.
namespace rwkv::formats {
namespace {

constexpr size_t kMaxStack = 100'000;      // values or marks; a state dict needs two a tensor
constexpr size_t kMaxObjects = 4'000'000;  // objects, items of containers, memo entries, each

}  // namespace

Pickle PickleMachine::run() {
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

std::span<const std::byte> PickleMachine::take(uint64_t count) {
  if (count > bytes_.size() - at_) {
    fail("needs {} bytes more where {} are left (cut short)", count, bytes_.size() - at_);
  }
  const auto taken = bytes_.subspan(at_, static_cast<size_t>(count));
  at_ += taken.size();
  return taken;
}

std::string_view PickleMachine::take_line() {
  const std::string_view rest = as_text(bytes_.subspan(at_));
  const size_t length = rest.find('\n');
  if (length == std::string_view::npos) fail("a name without an end of line (cut short)");
  at_ += length + 1;
  return rest.substr(0, length);
}

void PickleMachine::push(PickleValue value) {
  if (stack_.size() >= kMaxStack) fail("more than {} values nested in each other", kMaxStack);
  stack_.push_back(value);
}

PickleValue PickleMachine::pop() {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) fail("takes a value from an empty stack");
  const PickleValue value = stack_.back();
  stack_.pop_back();
  return value;
}

std::vector<PickleValue> PickleMachine::pop_to_mark() {
  if (marks_.empty()) fail("goes back to a mark that was never set");
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<PickleValue> items(first, stack_.end());
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return items;
}

void PickleMachine::count_objects(size_t more) {
  objects_ += more;
  if (objects_ > kMaxObjects) fail("more than {} objects", kMaxObjects);
}

PickleValue PickleMachine::expect(PickleValue value, PickleKind kind, std::string_view what) {
  if (!value.is(kind)) fail("{} has another type than expected", what);
  return value;
}

// --- numbers ---

bool PickleMachine::run_number(uint8_t op) {
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

void PickleMachine::push_integer(std::span<const std::byte> twos_complement) {
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

bool PickleMachine::run_string(uint8_t op) {
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

void PickleMachine::push_string(std::string_view text) {
  count_objects(1);
  out_.strings.push_back(text);
  push({PickleKind::string, static_cast<int64_t>(out_.strings.size() - 1)});
}

// --- memo ---

bool PickleMachine::run_memo(uint8_t op) {
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

void PickleMachine::remember(uint32_t index) {
  const PickleValue value = pop();
  stack_.push_back(value);
  memo_[index] = value;
  if (memo_.size() > kMaxObjects) fail("more than {} remembered objects", kMaxObjects);
}

void PickleMachine::recall(uint32_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) fail("refers to object {}, which was never stored", index);
  push(found->second);
}

// --- tuples, lists, dicts ---

bool PickleMachine::run_tuple(uint8_t op) {
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

void PickleMachine::push_sequence(PickleKind kind, std::vector<PickleValue> items) {
  count_objects(1 + items.size());
  out_.sequences.push_back(std::move(items));
  push({kind, static_cast<int64_t>(out_.sequences.size() - 1)});
}

void PickleMachine::push_tuple(size_t count) {
  std::vector<PickleValue> items(count);
  for (size_t i = count; i-- > 0;) items[i] = pop();
  push_sequence(PickleKind::tuple, std::move(items));
}

bool PickleMachine::run_container(uint8_t op) {
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

void PickleMachine::add_items(PickleKind container, std::vector<PickleValue> items) {
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

bool PickleMachine::run_object(uint8_t op) {
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

void PickleMachine::skip_prologue(uint8_t op) {
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

std::optional<PickleValue> Pickle::lookup(PickleValue dict, std::string_view key) const {
  const std::vector<PickleValue>& all = items(dict);
  for (size_t i = all.size(); i >= 2; i -= 2) {
    const PickleValue name = all[i - 2];
    if (name.is(PickleKind::string) && string(name) == key) return all[i - 1];
  }
  return std::nullopt;
}

Pickle read_pickle(std::span<const std::byte> bytes, const std::string& source) {
  return PickleMachine(bytes, source).run();
}

}  // namespace rwkv::formats

#include "trainer/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>
#include <tuple>
#include <utility>

#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

constexpr size_t kMaxBytes = 1'000'000;
constexpr size_t kMaxNodes = 10'000;
constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxReported = 50;

/// Ends parsing where no sensible tree can follow; caught in parse_strict_yaml.
struct Refused {
  int line;
  std::string message;
};

// yaml-cpp's own nodes share memory between aliases and drop duplicate keys in silence. Its events
// show everything the file holds, so the tree is built from them.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(int source, Problems& problems) : source_(source), problems_(problems) {}

  void OnDocumentStart(const YAML::Mark& /*mark*/) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check(mark, "?", anchor);
    if (key_expected()) refuse(mark, "a key is empty; write 'key: value'");
    add(new_node(YamlNode::Kind::kNull, mark));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    refuse(mark, "aliases (*name) are not allowed; write the value out");
  }

  void OnAnchor(const YAML::Mark& mark, const std::string& /*name*/) override {
    refuse(mark, "anchors (&name) are not allowed; write the value out, or quote a text with &");
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check(mark, tag, anchor);
    if (key_expected()) {
      add_key(mark, value);
      return;
    }
    YamlNode node = new_node(YamlNode::Kind::kScalar, mark);
    node.text = value;
    node.quoted = tag == "!";
    add(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    open(YamlNode::Kind::kSequence, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    open(YamlNode::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

  [[nodiscard]] YamlNode take_root() { return std::move(root_); }

 private:
  [[noreturn]] static void refuse(const YAML::Mark& mark, std::string message) {
    throw Refused{mark.line + 1, std::move(message)};
  }

  void check(const YAML::Mark& mark, std::string_view tag, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) refuse(mark, "anchors (&name) are not allowed");
    if (!tag.empty() && tag != "?" && tag != "!") {
      refuse(mark, "tags (!name) are not allowed; quote a text that starts with !");
    }
    if (++nodes_ > kMaxNodes) {
      refuse(mark, fmt::format("more than {} values; this is no run configuration", kMaxNodes));
    }
  }

  [[nodiscard]] YamlNode new_node(YamlNode::Kind kind, const YAML::Mark& mark) const {
    YamlNode node;
    node.kind = kind;
    node.place = {source_, mark.line + 1};
    return node;
  }

  [[nodiscard]] bool key_expected() const {
    return !open_.empty() && open_.back().kind == YamlNode::Kind::kMap &&
           open_.back().keys.size() == open_.back().items.size();
  }

  void add_key(const YAML::Mark& mark, const std::string& key) {
    YamlNode& map = open_.back();
    if (key == "<<") refuse(mark, "merge keys (<<) are not allowed; write the values out");
    const auto before = std::find(map.keys.begin(), map.keys.end(), key);
    const Place place{source_, mark.line + 1};
    if (before != map.keys.end()) {
      const auto index = static_cast<size_t>(before - map.keys.begin());
      problems_.add(place, fmt::format("{}: key appears twice, first in line {}; keep one",
                                       printable(key, 60), map.key_places[index].line));
    }
    map.keys.push_back(key);
    map.key_places.push_back(place);
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    check(mark, tag, anchor);
    if (key_expected()) refuse(mark, "a key must be a plain word; is a bracket left open?");
    if (open_.size() >= kMaxDepth) {
      refuse(mark, fmt::format("more than {} levels of nesting", kMaxDepth));
    }
    open_.push_back(new_node(kind, mark));
  }

  void close() {
    YamlNode node = std::move(open_.back());
    open_.pop_back();
    add(std::move(node));
  }

  void add(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
    } else {
      open_.back().items.push_back(std::move(node));
    }
  }

  int source_;
  Problems& problems_;
  size_t nodes_ = 0;
  std::vector<YamlNode> open_;
  YamlNode root_;
};

/// Bytes of the UTF-8 character at the start of `text`, 0 when there is none (RFC 3629: no overlong
/// forms, no surrogates, nothing above U+10FFFF).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (lead == 0xE0 && byte(1) < 0xA0) return 0;
  if (lead == 0xED && byte(1) > 0x9F) return 0;
  if (lead == 0xF0 && byte(1) < 0x90) return 0;
  if (lead == 0xF4 && byte(1) > 0x8F) return 0;
  return length;
}

void check_text(std::string_view text) {
  if (text.size() > kMaxBytes) {
    throw Refused{
        0, fmt::format("{} bytes; a run configuration has at most {}", text.size(), kMaxBytes)};
  }
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text.substr(i));
    if (length == 0 || text[i] == '\0') {
      throw Refused{line,
                    fmt::format("byte {} is not valid UTF-8 text; save the file as UTF-8", i)};
    }
    if (text[i] == '\n') ++line;
    i += length;
  }
}

int last_line(std::string_view text) {
  const auto breaks = std::count(text.begin(), text.end(), '\n');
  return static_cast<int>(breaks) + (text.empty() || text.back() == '\n' ? 0 : 1);
}

YamlNode parse_document(std::string_view text, int source, Problems& problems) {
  check_text(text);
  std::string closed(text);
  if (!closed.empty() && closed.back() != '\n') closed += '\n';
  // yaml-cpp lets the end of the file close a quoted text, but not the end of a document.
  closed += "...\n";
  std::istringstream in(closed);
  YAML::Parser parser(in);
  TreeBuilder builder(source, problems);
  parser.HandleNextDocument(builder);
  YamlNode root = builder.take_root();
  TreeBuilder rest(source, problems);
  if (parser.HandleNextDocument(rest)) {
    throw Refused{rest.take_root().place.line, "a second document starts here; keep one per file"};
  }
  return root;
}

}  // namespace

void Problems::add(Place place, std::string message) {
  entries_.push_back({place, std::move(message)});
}

void Problems::throw_if_any() const {
  if (entries_.empty()) return;
  std::vector<Entry> sorted = entries_;
  // Mistakes without a line (a missing key) come after those of the file and before those of --set.
  const auto rank = [](const Entry& entry) {
    return std::tuple(entry.place.source, entry.place.line == 0, entry.place.line);
  };
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](const Entry& a, const Entry& b) { return rank(a) < rank(b); });
  std::string text;
  if (sorted.size() > 1) text = fmt::format("{}: {} errors", file_name_, sorted.size());
  for (size_t i = 0; i < std::min(sorted.size(), kMaxReported); ++i) {
    const auto& [place, message] = sorted[i];
    if (!text.empty()) text += '\n';
    if (place.source > 0) {
      text += "--set: ";
    } else if (place.line > 0) {
      text += fmt::format("{}:{}: ", file_name_, place.line);
    } else {
      text += file_name_ + ": ";
    }
    text += message;
  }
  if (sorted.size() > kMaxReported)
    text += fmt::format("\n... and {} more", sorted.size() - kMaxReported);
  throw UserError(text);
}

const YamlNode* YamlNode::find(std::string_view key) const {
  const auto found = std::find(keys.begin(), keys.end(), key);
  return found == keys.end() ? nullptr : &items[static_cast<size_t>(found - keys.begin())];
}

YamlNode* YamlNode::find(std::string_view key) {
  return const_cast<YamlNode*>(std::as_const(*this).find(key));
}

std::optional<YamlNode> parse_strict_yaml(std::string_view text, int source, Problems& problems) {
  try {
    return parse_document(text, source, problems);
  } catch (const Refused& refused) {
    problems.add({source, refused.line}, refused.message);
  } catch (const YAML::ParserException& error) {
    problems.add({source, std::min(error.mark.line + 1, last_line(text))},
                 fmt::format("not valid YAML: {}", printable(error.msg)));
  } catch (const YAML::Exception& error) {
    problems.add({source, 0}, fmt::format("not valid YAML: {}", printable(error.what())));
  }
  return std::nullopt;
}

void set_at_path(YamlNode& root, std::string_view key, YamlNode value, Problems& problems) {
  YamlNode* map = &root;
  const Place place = value.place;
  for (std::string_view rest = key;;) {
    const size_t dot = rest.find('.');
    const std::string_view name = rest.substr(0, dot);
    YamlNode* found = map->find(name);
    if (found == nullptr) {
      map->keys.emplace_back(name);
      map->key_places.push_back(place);
      found = &map->items.emplace_back();
      found->place = place;
    }
    if (dot == std::string_view::npos) {
      *found = std::move(value);
      return;
    }
    if (found->kind == YamlNode::Kind::kNull) found->kind = YamlNode::Kind::kMap;
    if (found->kind != YamlNode::Kind::kMap) {
      const auto end = static_cast<size_t>(name.data() + name.size() - key.data());
      problems.add(place, fmt::format("{}: {} is no section; give it a value as a whole",
                                      printable(key, 80), printable(key.substr(0, end), 80)));
      return;
    }
    map = found;
    rest.remove_prefix(dot + 1);
  }
}

}  // namespace rwkv::trainer

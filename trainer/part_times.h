#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::trainer {

/// Shares the time of training steps out among their parts (data, time_mix, head, ...), forward and
/// backward apart.
///
/// It is one clock that always runs for exactly one part, so all parts together are the time that
/// passed. A part inside a part takes the time away from the outer one while it lasts. All times
/// are nanoseconds of one steady clock; not thread-safe.
///
/// The backward pass runs outside of the code that names the parts. Its nodes carry the sequence
/// number that autograd gave them during the forward pass; so a node belongs to the innermost part
/// that was running when its number was given.
class PartTimes {
 public:
  /// What the clock runs for.
  struct Place {
    int part = 0;  // index into parts()
    bool backward = false;
  };
  struct Part {
    std::string name;
    int64_t forward_ns = 0;
    int64_t backward_ns = 0;
    int64_t products_ns = 0;  // of both, inside matrix products
    [[nodiscard]] int64_t total_ns() const { return forward_ns + backward_ns; }
  };
  /// Part 0: everything that lies in no other part.
  static constexpr std::string_view kRest = "everything else";

  explicit PartTimes(int64_t now_ns) : last_ns_(now_ns) {}

  /// Forgets all times; the parts that are running go on.
  void reset(int64_t now_ns);

  /// A part begins, `sequence` being the next number that autograd will give. Returns the place
  /// that leave() goes back to. A part that begins during the backward pass, to compute something
  /// again, counts as backward.
  Place enter(std::string_view part, int64_t now_ns);
  void leave(Place previous, int64_t now_ns);
  /// The forward part ended that began when `first` was the next sequence number; now `next` is.
  void remember_forward(int part, uint64_t first, uint64_t next);
  /// A node of the backward pass begins. Negative numbers (sums of gradients) belong to no part.
  Place enter_backward(int64_t sequence, int64_t now_ns);
  /// Numbers remembered so far are not needed any more: the step is over.
  void forget_sequences() { intervals_.clear(); }

  void add_products(int64_t ns) { parts_[static_cast<size_t>(here_.part)].products_ns += ns; }

  [[nodiscard]] Place here() const { return here_; }
  [[nodiscard]] const std::string& name(int part) const {
    return parts_[static_cast<size_t>(part)].name;
  }
  /// All parts in the order in which they first ran, up to the last enter() or leave().
  [[nodiscard]] const std::vector<Part>& parts() const { return parts_; }
  /// Runs the clock up to now.
  void update(int64_t now_ns);
  /// Leaves out the time since the clock last ran.
  void skip(int64_t now_ns) { last_ns_ = now_ns; }

 private:
  /// Sequence numbers first <= s < next were given in `part`; sorted by next, inner parts before
  /// outer ones.
  struct Interval {
    uint64_t first, next;
    int part;
  };

  int index_of(std::string_view part);

  std::vector<Part> parts_{Part{std::string(kRest)}};
  std::vector<Interval> intervals_;
  Place here_;
  int64_t last_ns_;
};

}  // namespace rwkv::trainer

#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rwkv::trainer {

/// A log that TensorBoard reads: FOLDER/events.out.tfevents.SECONDS.HOST.PID.0.
///
/// A file is a sequence of records (TFRecord): length, its masked CRC-32C, a protocol buffer of
/// type Event, its masked CRC-32C. Formats: tensorflow/core/lib/io/record_writer.cc,
/// tensorflow/core/util/event.proto and framework/summary.proto of the repository
/// tensorflow/tensorflow.
///
/// Every run of the program writes a file of its own. It begins with a SessionLog START at
/// `first_step`, at which TensorBoard drops what older files hold of that step and later ones:
/// after a resume no step shows twice. All members throw UserError when the file cannot be written.
class EventFile {
 public:
  /// `first_step`: the first step that this file may hold.
  EventFile(const std::filesystem::path& folder, int64_t first_step);

  /// One event with a value per name. TensorBoard's scalars have the precision of float.
  void scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values);

  /// A text as TensorBoard's Text tab shows it, set as code, so that no character is read as
  /// Markdown.
  void text(int64_t step, std::string_view name, std::string_view text);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  void write_event(int64_t step, int field, std::string_view payload);

  std::filesystem::path path_;
  std::ofstream out_;
};

}  // namespace rwkv::trainer

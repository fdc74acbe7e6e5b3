#pragma once

#include <string>
#include <string_view>

namespace rwkv::report {

/// `text` as valid UTF-8 that no viewer can misread: bytes that are no UTF-8 (also overlong forms
/// and surrogates) and characters that turn the direction of writing become U+FFFD; control
/// characters other than line feed and tab become their pictures (U+2400 and on). Carriage returns
/// before a line feed go.
std::string clean_utf8(std::string_view text);

/// clean_utf8() with & < > " ' written as entities: for text and attributes of HTML.
std::string html_text(std::string_view text);

}  // namespace rwkv::report

#include "trainer/report/page.h"

#include <fmt/format.h>

#include "trainer/report/page_parts.h"
#include "trainer/report/palette.h"
#include "trainer/report/utf8.h"

namespace rwkv::report {
namespace {

/// `selector{--c0:...;--c1:...}` and so on.
template <typename Palette>
std::string colours(const Palette& palette, const char* background) {
  std::string out = fmt::format("--back:{};", background);
  for (size_t i = 0; i < palette.size(); ++i) out += fmt::format("--c{}:{};", i, palette[i]);
  return out;
}

/// The style sheet, with the colours of the palette. Paper is always light.
std::string style() {
  std::string out =
      fmt::format(":root{{{}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n",
                  colours(kLightPalette, kLightBackground), colours(kDarkPalette, kDarkBackground));
  out += page_style();
  for (size_t i = 0; i < kLightPalette.size(); ++i)
    out += fmt::format(".r{0}{{--c:var(--c{0})}}\n", i);
  return out;
}

/// "2026-11-24 09:00 UTC" from "2026-11-24T09:00:00Z".
std::string for_people(const std::string& utc) {
  return utc.size() == 20 ? utc.substr(0, 10) + " " + utc.substr(11, 5) + " UTC" : utc;
}

std::string title_of(const std::vector<RunData>& runs) {
  if (runs.size() == 1) return runs.front().name;
  return fmt::format("{} runs", runs.size());
}

}  // namespace

std::string make_page(const std::vector<RunData>& runs, const std::string& made_at) {
  const std::string title = html_text(title_of(runs));
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
      "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      "<title>{} - rwkv report</title>\n<style>\n{}</style></head>\n<body>\n"
      "<header><h1>{}</h1><p>training report by rwkv, {}</p></header>\n<main>\n",
      title, style(), title, html_text(for_people(made_at)));
  out += figures_table(runs);
  out += notes(runs);
  out += charts_section(runs);
  out += samples_section(runs);
  out += config_section(runs);
  out += machine_section(runs);
  out += "</main>\n<script>\n";
  out += page_script();
  out += "</script>\n</body></html>\n";
  return out;
}

}  // namespace rwkv::report

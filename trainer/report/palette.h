#pragma once

#include <array>
#include <cstddef>

namespace rwkv::report {

// Colours of runs, in order. Every two of one set differ by more than 0.13 in OKLab, also as people
// with protanopia, deuteranopia or tritanopia see them, and every one has a contrast above 3 to
// its background (tests/trainer/report_test.cpp computes both). Runs beyond begin again, dashed.
inline constexpr std::array kLightPalette = {"#1d54d1", "#f45729", "#11a393",
                                             "#a20a7d", "#5c4401", "#12044c"};
inline constexpr std::array kDarkPalette = {"#4883fb", "#f35b11", "#6bd292",
                                            "#b3719f", "#f4f993", "#d0a5f5"};
inline constexpr const char* kLightBackground = "#ffffff";
inline constexpr const char* kDarkBackground = "#14171c";
static_assert(kLightPalette.size() == kDarkPalette.size());

}  // namespace rwkv::report

#include "core/base/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <numeric>
#include <vector>

#include "core/base/error.h"

namespace retort {
namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

// Small where little was mistyped, and smaller where the beginning is right: what was left out at the end (nf4 of
// nf4-g64) is no other name.
int64_t dissimilarity(const std::string& typed, const std::string& name) {
  const auto prefix = std::ranges::mismatch(typed, name).in1 - typed.begin();
  return static_cast<int64_t>(edit_distance(typed, name)) - 2 * prefix;
}

struct Unit {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array kUnits{Unit{"KiB", 1ull << 10},
                            Unit{"MiB", 1ull << 20},
                            Unit{"GiB", 1ull << 30},
                            Unit{"TiB", 1ull << 40},
                            Unit{"KB", 1000},
                            Unit{"MB", 1000000},
                            Unit{"GB", 1000000000},
                            Unit{"B", 1},
                            Unit{"", 1}};

}  // namespace

std::string nearest_name(std::string_view name, std::span<const std::string> candidates) {
  const std::string typed = lower(name);
  const auto best =
      std::ranges::min_element(candidates, {}, [&](const auto& known) { return dissimilarity(typed, lower(known)); });
  return best == candidates.end() ? std::string() : *best;
}

bool glob_match(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p, ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

uint64_t parse_size(std::string_view text, std::string_view option) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, text.data() + text.size());
  const auto found = std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& u) { return u.name == unit; });
  if (error != std::errc() || number <= 0 || number > 1e15 || found == kUnits.end())
    fail_usage("options", option, "'" + std::string(text) + "' is not a size", "Write it as 8GiB, 700MiB or 512MB");
  return static_cast<uint64_t>(number * static_cast<double>(found->bytes));
}

std::string format_bytes(uint64_t bytes) {
  static constexpr std::array<const char*, 5> kNames{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kNames.size(); ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kNames[unit]);
  return text;
}

}  // namespace retort

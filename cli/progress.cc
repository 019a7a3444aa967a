#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/text.h"

namespace retort {
namespace {

constexpr double kRedrawSeconds = 0.1;                 // on a terminal
constexpr double kLineSeconds = 5, kIdleSeconds = 60;  // elsewhere: 10 % further, but not before; or so much later
constexpr int kBarWidth = 24;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string amount(double value, const std::string& unit) {
  if (unit == "bytes") return format_bytes(static_cast<uint64_t>(value));
  if (value >= 1e6) return fmt::format("{:.1f}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.1f}k", value / 1e3);
  return value >= 100 || value == static_cast<double>(static_cast<int64_t>(value)) ? fmt::format("{:.0f}", value)
                                                                                   : fmt::format("{:.1f}", value);
}

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string bar(double fraction, int width) {
  const auto filled = static_cast<size_t>(fraction * width);
  std::string text(filled, '=');
  if (filled < static_cast<size_t>(width)) text += '>';
  text.resize(static_cast<size_t>(width), ' ');
  return "[" + text + "]";
}

size_t terminal_width(std::FILE* stream) {
  winsize size{};
  return ::ioctl(::fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
}

}  // namespace

std::string progress_line(const ProgressState& state, int bar_width) {
  const auto done = static_cast<double>(state.done), total = static_cast<double>(state.total);
  const double rate = state.seconds > 0 ? (done - static_cast<double>(state.earlier)) / state.seconds : 0;
  const std::string unit = state.unit == "bytes" || state.unit.empty() ? "" : " " + state.unit;
  std::string line = state.task;
  if (state.total > 0) {
    const double fraction = std::clamp(done / total, 0.0, 1.0);
    if (bar_width > 0) line += "  " + bar(fraction, bar_width);
    line +=
        fmt::format("  {:3.0f}%  {}/{}{}", fraction * 100, amount(done, state.unit), amount(total, state.unit), unit);
  } else {
    line += "  " + amount(done, state.unit) + unit;
  }
  if (rate > 0) line += fmt::format("  {}{}/s", amount(rate, state.unit), unit);
  if (rate > 0 && state.total > state.done) line += "  " + duration((total - done) / rate) + " left";
  if (!state.note.empty()) line += "  " + state.note;
  return line;
}

TerminalProgress::TerminalProgress(std::FILE* stream, bool quiet)
    : stream_(stream), quiet_(quiet), terminal_(::isatty(::fileno(stream)) == 1) {}

TerminalProgress::~TerminalProgress() { clear(); }

void TerminalProgress::begin(std::string_view task, int64_t total, std::string_view unit) {
  state_ = {.task = std::string(task), .unit = std::string(unit), .note = {}, .total = total};
  started_ = shown_ = Clock::now();
  shown_done_ = 0;
  running_ = true;
}

void TerminalProgress::resume(int64_t done) { state_.done = state_.earlier = shown_done_ = done; }

void TerminalProgress::update(int64_t done, std::string_view note) {
  state_.done = done;
  state_.note = note;
  if (!running_ || quiet_ || !(terminal_ ? redraw_is_due() : line_is_due())) return;
  draw();
}

void TerminalProgress::end() {
  clear();
  running_ = false;
}

void TerminalProgress::message(std::string_view text) {
  if (quiet_) return;
  clear();
  std::fprintf(stream_, "%.*s\n", static_cast<int>(text.size()), text.data());
  std::fflush(stream_);
}

bool TerminalProgress::redraw_is_due() const { return seconds_since(shown_) >= kRedrawSeconds; }

bool TerminalProgress::line_is_due() const {
  const double passed = seconds_since(shown_);
  const bool further = state_.total > 0 && state_.done - shown_done_ >= state_.total / 10;
  return passed >= kIdleSeconds || (passed >= kLineSeconds && further);
}

void TerminalProgress::draw() {
  state_.seconds = seconds_since(started_);
  std::string line = progress_line(state_, terminal_ ? kBarWidth : 0);
  if (terminal_) line = "\r" + line.substr(0, terminal_width(stream_)) + "\x1b[K";
  std::fputs((terminal_ ? line : line + "\n").c_str(), stream_);
  std::fflush(stream_);
  shown_ = Clock::now();
  shown_done_ = state_.done;
  drawn_ = terminal_;
}

void TerminalProgress::clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", stream_);
  std::fflush(stream_);
  drawn_ = false;
}

}  // namespace retort

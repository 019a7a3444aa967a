// Progress on standard error: a bar that is redrawn in place on a terminal, plain lines now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "core/base/context.h"

namespace retort {

struct ProgressState {
  std::string task, unit, note;
  int64_t done = 0, total = 0;  // total 0: unknown
  double seconds = 0;
  int64_t earlier = 0;  // of `done`, what an interrupted run before this one did
};

// "distil  42%  1234/2900 tokens  5.1k tokens/s  0:32 left  loss 3.91", and with a bar of `bar_width` > 0 characters.
std::string progress_line(const ProgressState& state, int bar_width);

class TerminalProgress : public ProgressSink {
 public:
  // Draws on `stream`, in place where it is a terminal. With `quiet` nothing is written.
  TerminalProgress(std::FILE* stream, bool quiet);
  ~TerminalProgress() override;
  void begin(std::string_view task, int64_t total, std::string_view unit) override;
  void resume(int64_t done) override;
  void update(int64_t done, std::string_view note) override;
  void end() override;
  void message(std::string_view text) override;

 private:
  using Clock = std::chrono::steady_clock;
  bool redraw_is_due() const;
  bool line_is_due() const;
  void draw();
  void clear();

  std::FILE* stream_;
  bool quiet_, terminal_, running_ = false, drawn_ = false;
  ProgressState state_;
  Clock::time_point started_, shown_;
  int64_t shown_done_ = 0;
};

}  // namespace retort

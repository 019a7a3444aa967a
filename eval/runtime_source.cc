#include "eval/runtime_source.h"

namespace retort {
namespace {

class RuntimeWindow : public WindowLogits {
 public:
  RuntimeWindow(Engine& engine, std::span<const int32_t> window, int64_t first_row)
      : engine_(engine), window_(window), prefix_(first_row) {}

  void next(int64_t rows, std::span<float> out) override {
    if (!session_) session_ = engine_.new_session(static_cast<int64_t>(window_.size()));
    const auto tokens = window_.subspan(static_cast<size_t>(session_->position()), static_cast<size_t>(prefix_ + rows));
    engine_.forward(*session_, tokens, rows, out);
    prefix_ = 0;
  }

 private:
  Engine& engine_;
  std::span<const int32_t> window_;
  int64_t prefix_;  // tokens before the first row that is asked for
  std::unique_ptr<Session> session_;
};

class RuntimeSource : public LogitsSource {
 public:
  explicit RuntimeSource(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}
  int64_t vocab_size() const override { return engine_->config().vocab_size; }
  std::unique_ptr<WindowLogits> start(std::span<const int32_t> window, int64_t first_row) override {
    return std::make_unique<RuntimeWindow>(*engine_, window, first_row);
  }
  bool concurrent() const override { return false; }
  std::string_view backend() const override { return "runtime"; }

 private:
  std::unique_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<LogitsSource> runtime_source(const ModelSource& source, const EngineOptions& options,
                                             Context& context) {
  return std::make_unique<RuntimeSource>(load_engine(source, options, context));
}

std::unique_ptr<LogitsSource> runtime_source(const ModelSource& source, Context& context) {
  return runtime_source(source, EngineOptions{}, context);
}

}  // namespace retort

#include "runtime/text_generator.h"

#include <algorithm>
#include <span>

#include "core/base/error.h"

namespace retort {
namespace {

// What `ids` add to the text of `prompt`. A decoder may treat the begin of a text in its own way (SentencePiece drops
// a blank there), so the new tokens are not decoded alone.
std::string continuation(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt, std::vector<int32_t> ids) {
  const std::string before = tokenizer.decode(prompt, true);
  std::vector<int32_t> all = prompt;
  all.insert(all.end(), ids.begin(), ids.end());
  const std::string text = tokenizer.decode(all, true);
  return text.starts_with(before) ? text.substr(before.size()) : tokenizer.decode(ids, true);
}

size_t first_stop(const std::string& text, const std::vector<std::string>& stops) {
  size_t first = std::string::npos;
  for (const std::string& stop : stops) first = std::min(first, text.find(stop));
  return first;
}

// Whether a new token may have completed a stop: looks at as many of the last tokens as the longest stop can have, so
// that the work does not grow with the text.
class StopWatch {
 public:
  StopWatch(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt, const std::vector<std::string>& stops)
      : tokenizer_(tokenizer), stops_(stops), tokens_(prompt) {
    for (const std::string& stop : stops) window_ = std::max(window_, stop.size() + kMargin);
  }

  bool may_stop(int32_t id) {
    if (stops_.empty()) return false;
    tokens_.push_back(id);
    const std::span<const int32_t> all(tokens_);
    return first_stop(tokenizer_.decode(all.last(std::min(window_, all.size())), true), stops_) != std::string::npos;
  }

 private:
  static constexpr size_t kMargin = 16;  // tokens without a text of their own, such as special ones

  const Tokenizer& tokenizer_;
  const std::vector<std::string>& stops_;
  std::vector<int32_t> tokens_;
  size_t window_ = 0;
};

}  // namespace

Generation generate_text(const ModelSource& source, Engine& engine, std::string_view prompt,
                         const GenerationOptions& options, Context& context) {
  if (std::ranges::find(options.stops, "") != options.stops.end())
    fail_usage("generate", "--stop", "the text is empty");
  const auto tokenizer = source.tokenizer();
  const std::vector<int32_t> prompt_ids = tokenizer->encode(prompt);
  const auto prompt_tokens = static_cast<int64_t>(prompt_ids.size());
  const int64_t limit = options.max_new_tokens, context_length = engine.config().context_length;
  if (prompt_tokens + limit > context_length)
    context.progress.message("The prompt and the new tokens may reach " + std::to_string(prompt_tokens + limit) +
                             " tokens; the model was made for " + std::to_string(context_length));

  Generation result{.text = {}, .ids = {}, .prompt_tokens = prompt_tokens, .stopped_by = "length"};
  std::vector<int32_t> so_far;
  StopWatch watch(*tokenizer, prompt_ids, options.stops);
  const auto goes_on = [&](int32_t id) {
    so_far.push_back(id);
    context.progress.update(static_cast<int64_t>(so_far.size()));
    return !watch.may_stop(id) ||
           first_stop(continuation(*tokenizer, prompt_ids, so_far), options.stops) == std::string::npos;
  };
  context.progress.begin("generate", limit, "tokens");
  result.ids = generate(engine, prompt_ids, limit, options.sampling, source.config().eos_ids, context, goes_on);
  context.progress.end();
  result.text = continuation(*tokenizer, prompt_ids, result.ids);
  const size_t stop = first_stop(result.text, options.stops);
  if (stop != std::string::npos) {
    result.text.resize(stop);
    result.stopped_by = "text";
  } else if (static_cast<int64_t>(result.ids.size()) < limit) {
    result.stopped_by = "end";
  }
  return result;
}

}  // namespace retort

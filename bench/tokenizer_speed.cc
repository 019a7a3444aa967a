// tokenizer_speed MODEL TEXT: how many megabytes a second one core encodes and decodes, the best of five passes, and
// for a text of one long word, whose time must grow in step with its length.
#include <algorithm>
#include <cstdio>
#include <ctime>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/model_source.h"

namespace {

template <typename Work>
double best_seconds(Work&& work) {
  double best = 1e9;
  for (int pass = 0; pass < 5; ++pass) {
    const std::clock_t start = std::clock();  // processor time: the work has one thread
    work();
    best = std::min(best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return best;
}

void report(const char* what, size_t bytes, double seconds) {
  std::printf("%-24s %10zu bytes  %8.3f s  %7.2f MB/s\n", what, bytes, seconds,
              static_cast<double>(bytes) / seconds / 1e6);
}

void run(const char* model, const char* path) {
  const auto tokenizer = retort::open_tokenizer(model);
  const std::string text = retort::read_corpus(path);
  std::vector<int32_t> ids;
  report("encode", text.size(), best_seconds([&] { ids = tokenizer->encode(text); }));
  report("decode", text.size(), best_seconds([&] { tokenizer->decode(ids); }));
  std::printf("%zu tokens\n", ids.size());
  for (const size_t length : {100'000u, 200'000u, 400'000u}) {
    std::string word;
    for (size_t i = 0; word.size() < length; ++i) word += static_cast<char>('a' + i * i % 26);
    report("one word", word.size(), best_seconds([&] { ids = tokenizer->encode(word); }));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tokenizer_speed MODEL TEXT\n");
    return 2;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const retort::Error& error) {
    std::fprintf(stderr, "tokenizer_speed: %s\n", error.what());
    return 1;
  }
  return 0;
}

// client_probe MODEL FILE: reads token ids from standard input, writes the logits after each of them to FILE as
// float32, [tokens, vocabulary], computed by the built-in backend in float math.
#include <cstdio>
#include <exception>
#include <iostream>
#include <vector>

#include "core/base/files.h"
#include "runtime/engine.h"

int main(int argc, char** argv) {
  using namespace retort;
  try {
    if (argc != 3) throw std::runtime_error("usage: client_probe MODEL FILE");
    std::vector<int32_t> ids;
    for (int32_t id = 0; std::cin >> id;) ids.push_back(id);
    ThreadPool threads(1);
    ProgressSink silent;
    Context context{threads, silent};
    const auto source = open_model(argv[1]);
    EngineOptions options;
    options.float_math = true;
    const auto engine = load_engine(*source, options, context);
    const auto session = engine->new_session(static_cast<int64_t>(ids.size()));
    std::vector<float> logits(ids.size() * static_cast<size_t>(source->config().vocab_size));
    engine->forward(*session, ids, static_cast<int64_t>(ids.size()), logits);
    OutputFile out(argv[2]);
    out.write(std::as_bytes(std::span(logits)));
    out.close();
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "client_probe: %s\n", e.what());
    return 1;
  }
}

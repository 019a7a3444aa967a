// What the programs' results are compared with, from the libraries, without a process for each of many texts:
//   client_probe logits MODEL FILE: reads token ids from standard input, writes the logits after each of them to FILE
//     as float32, [tokens, vocabulary], computed by the built-in backend in float math;
//   client_probe ids MODEL: reads a JSON list of texts from standard input, prints the list of their token ids.
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <vector>

#include "core/base/files.h"
#include "core/base/json.h"
#include "runtime/engine.h"

namespace retort {
namespace {

void write_logits(const char* model, const char* file) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; std::cin >> id;) ids.push_back(id);
  ThreadPool threads(1);
  ProgressSink silent;
  Context context{threads, silent};
  const auto source = open_model(model);
  EngineOptions options;
  options.float_math = true;
  const auto engine = load_engine(*source, options, context);
  const auto session = engine->new_session(static_cast<int64_t>(ids.size()));
  std::vector<float> logits(ids.size() * static_cast<size_t>(source->config().vocab_size));
  engine->forward(*session, ids, static_cast<int64_t>(ids.size()), logits);
  OutputFile out(file);
  out.write(std::as_bytes(std::span(logits)));
  out.close();
}

void print_ids(const char* model) {
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  const auto tokenizer = open_tokenizer(model);
  Json ids = Json::array();
  for (const Json& text : parse_json(input, "standard input"))
    ids.push_back(tokenizer->encode(text.get<std::string>()));
  std::cout << ids;
}

}  // namespace
}  // namespace retort

int main(int argc, char** argv) {
  try {
    const std::string_view command = argc > 1 ? argv[1] : "";
    if (command == "logits" && argc == 4)
      retort::write_logits(argv[2], argv[3]);
    else if (command == "ids" && argc == 3)
      retort::print_ids(argv[2]);
    else
      throw std::runtime_error("usage: client_probe logits MODEL FILE | client_probe ids MODEL");
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "client_probe: %s\n", e.what());
    return 1;
  }
}

#include "export/verify/onnx_evaluation.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "core/base/error.h"
#include "core/base/files.h"
#include "export/verify/onnx_operators.h"

namespace retort {
namespace {

constexpr int64_t kOpset = 21;   // whose definitions the operators follow
constexpr int64_t kPadding = 2;  // tokens before the first
constexpr int64_t kMostSteps = 128;
constexpr size_t kMostInputs = 16;                // of a node
constexpr int64_t kMostHeld = int64_t{1} << 25;   // elements, of all arrays
constexpr int64_t kLeastWork = int64_t{1} << 22;  // that any graph may do
constexpr int64_t kWorkPerByte = 16;              // for each token: a byte holds no more than four weights
constexpr const char* kDataFile = "model.onnx.data";

struct Domain {
  std::string_view name;
  int64_t version;
  std::span<const OnnxOperator> (*operators)();
};
constexpr Domain kDomains[] = {{"", kOpset, standard_operators}, {"com.microsoft", 1, microsoft_operators}};

using Values = std::map<std::string, OnnxArray>;

class Graph {
 public:
  Graph(const OnnxFiles& files, int64_t tokens, Context& context)
      : files_(files),
        parts_(parse_onnx_parts(files.graph, files.label)),
        most_work_(kLeastWork + kWorkPerByte * tokens * static_cast<int64_t>(files.graph.size() + files.data.size())),
        context_(context) {
    for (const auto& [name, version, operators] : kDomains) check_version(name, version);
    check_names();
    for (size_t i = 0; i < parts_.nodes.size(); ++i)
      for (const std::string& input : parts_.nodes[i].inputs) last_use_[input] = i;
    for (const OnnxDeclaration& output : parts_.outputs) last_use_[output.name] = parts_.nodes.size();
  }

  // Gives the declared outputs.
  Values run(const Values& fed) {
    values_ = {};
    held_ = 0;
    work_ = most_work_;
    for (const OnnxDeclaration& input : parts_.inputs) hold(input.name, declared(input, fed));
    if (fed.size() != parts_.inputs.size()) fail_graph(files_.label, "it lacks inputs of the decoder");
    for (size_t i = 0; i < parts_.nodes.size(); ++i) {
      context_.check_interrupted();
      apply(parts_.nodes[i]);
      forget(i);
    }
    Values outputs;
    for (const OnnxDeclaration& output : parts_.outputs) outputs[output.name] = declared(output, values_);
    return outputs;
  }

 private:
  void check_version(std::string_view domain, int64_t version) const {
    const auto found = parts_.opsets.find(std::string(domain));
    if (found == parts_.opsets.end() || found->second != version)
      fail_graph(files_.label, "it is not written in version " + std::to_string(version) + " of the operators of '" +
                                   std::string(domain) + "'");
  }

  // Nothing is given twice.
  void check_names() const {
    std::set<std::string> names;
    const auto add = [&](const std::string& name) {
      if (!name.empty() && !names.insert(name).second) fail_graph(files_.label, "'" + name + "' is given twice");
    };
    for (const OnnxDeclaration& input : parts_.inputs) add(input.name);
    for (const auto& [name, weight] : parts_.initializers) add(name);
    for (const OnnxNode& node : parts_.nodes) std::ranges::for_each(node.outputs, add);
  }

  // The value of an input or output of the graph, if it is what the graph says of it.
  OnnxArray declared(const OnnxDeclaration& declaration, const Values& values) const {
    const auto found = values.find(declaration.name);
    if (found == values.end()) fail_graph(files_.label, "nothing gives '" + declaration.name + "'");
    const auto fits = [](int64_t said, int64_t size) { return said == -1 || said == size; };
    if (declaration.data_type != found->second.type || !std::ranges::equal(declaration.dims, found->second.shape, fits))
      fail_graph(files_.label, "'" + declaration.name + "' has another type or shape than is said of it");
    return found->second;
  }

  OnnxArray weight(const std::string& name, const OnnxInitializer& weight) {
    if (weight.location.empty()) return array_of(weight, std::as_bytes(std::span(weight.raw)), name);
    const auto file = files_.data;
    if (weight.location != kDataFile || weight.offset > file.size() || weight.length > file.size() - weight.offset)
      fail_graph(name, "its data lie outside " + std::string(kDataFile));
    if (reads_.add(weight.length)) files_.release();
    return array_of(weight, file.subspan(weight.offset, weight.length), name);
  }

  const OnnxArray& value(const OnnxNode& node, const std::string& name) {
    if (const auto found = values_.find(name); found != values_.end()) return found->second;
    const auto stored = parts_.initializers.find(name);
    if (stored == parts_.initializers.end())
      fail_graph(label_of(node), "it reads '" + name + "', which nothing before it gives");
    return hold(name, weight(name, stored->second));
  }

  static const OnnxOperator& operator_of(const OnnxNode& node) {
    for (const auto& [name, version, operators] : kDomains)
      for (const OnnxOperator& row : operators())
        if (name == node.domain && row.name == node.type) return row;
    fail_graph(label_of(node), "the operator '" + node.type + "' is none that export writes");
  }

  void apply(const OnnxNode& node) {
    OnnxCall call(node, context_.threads, work_);
    call.need(node.inputs.size() <= kMostInputs, "it has more inputs than a node that export writes");
    const OnnxOperator& used = operator_of(node);
    bool of_weights = !node.inputs.empty();
    int64_t steps = 1;
    for (const std::string& input : node.inputs) {
      call.inputs.push_back(input.empty() ? nullptr : &value(node, input));
      if (input.empty()) continue;
      of_weights = of_weights && call.inputs.back()->of_weights;
      steps += call.inputs.back()->steps;
    }
    call.need(!of_weights || steps <= kMostSteps, "it is made of weights by more operators than export writes");
    OnnxResults results = used.apply(call);
    call.need_all_read();
    if (node.outputs.size() > results.size()) fail_graph(label_of(node), "it has more outputs than its operator gives");
    for (size_t i = 0; i < node.outputs.size(); ++i)
      if (!node.outputs[i].empty()) keep(call, node.outputs[i], results[i], of_weights && !used.computes, steps);
  }

  // What depends on the tokens is computed at once, for several nodes may read it. What is made of weights stays a
  // recipe, so that no matrix is ever held decoded.
  void keep(const OnnxCall& call, const std::string& name, const OnnxArray& result, bool recipe, int64_t steps) {
    OnnxArray kept = in_range(result, label_of(call.node));
    kept.of_weights = recipe;
    kept.steps = recipe ? steps : 1;
    if (!recipe) kept.at = stored(kept.type, kept.shape, call.values(kept)).at;
    hold(name, std::move(kept));
  }

  const OnnxArray& hold(const std::string& name, OnnxArray array) {
    held_ += numbers_in(array);
    if (held_ > kMostHeld) fail_graph(files_.label, "its nodes have more in memory than those that export writes");
    return values_[name] = std::move(array);
  }

  static int64_t numbers_in(const OnnxArray& array) {
    const int64_t elements = elements_of(array.shape);
    return array.of_weights ? 0 : elements;
  }

  // What no node after this one reads.
  void forget(size_t node) {
    for (const auto* names : {&parts_.nodes[node].inputs, &parts_.nodes[node].outputs})
      for (const std::string& name : *names) {
        const auto use = last_use_.find(name);
        const auto value = values_.find(name);
        if ((use != last_use_.end() && use->second > node) || value == values_.end()) continue;
        held_ -= numbers_in(value->second);
        values_.erase(value);
      }
  }

  const OnnxFiles& files_;
  OnnxParts parts_;
  const int64_t most_work_;
  ReadCount reads_;
  Context& context_;
  std::map<std::string, size_t> last_use_;  // the node; behind the last: an output of the graph
  Values values_;
  int64_t held_ = 0;  // elements, in `values_`
  int64_t work_ = 0;  // that is left
};

OnnxArray integers(const OnnxShape& shape, const std::function<int64_t(int64_t)>& at) {
  return {kOnnxI64, shape, [at](int64_t i) { return static_cast<double>(at(i)); }};
}

class Decoder {
 public:
  Decoder(const OnnxFiles& files, const ModelConfig& config, int64_t tokens, Context& context)
      : graph_(files, tokens, context), config_(config) {
    const OnnxShape empty{1, config.kv_heads, 0, config.head_dim};
    for (int64_t layer = 0; layer < config.layers; ++layer)
      for (const char* part : {".key", ".value"}) cache_[std::to_string(layer) + part] = stored(kOnnxF32, empty, {});
  }

  // Positions begin behind the padding, which the mask hides.
  std::vector<double> pass(std::span<const int32_t> ids) {
    const auto count = static_cast<int64_t>(ids.size());
    Values fed{{"input_ids", integers({1, count}, [ids](int64_t i) { return ids[static_cast<size_t>(i)]; })},
               {"attention_mask", integers({1, past_ + count}, [](int64_t i) { return i < kPadding ? 0 : 1; })},
               {"position_ids",
                integers({1, count}, [past = past_](int64_t i) { return std::max<int64_t>(past + i - kPadding, 0); })}};
    for (const auto& [name, array] : cache_) fed["past_key_values." + name] = array;
    Values given = graph_.run(fed);
    past_ += count;
    for (auto& [name, array] : cache_) {
      array = require(given, "present." + name);
      if (array.shape != OnnxShape{1, config_.kv_heads, past_, config_.head_dim})
        fail_graph("present." + name, "it does not hold every token");
    }
    const OnnxArray& logits = require(given, "logits");
    if (logits.shape != OnnxShape{1, count, config_.vocab_size}) fail_graph("logits", "it has an unexpected shape");
    return values_of(logits);
  }

 private:
  static const OnnxArray& require(const Values& values, const std::string& name) {
    const auto found = values.find(name);
    if (found == values.end()) fail_graph("model.onnx", "it has no output '" + name + "'");
    return found->second;
  }

  Graph graph_;
  const ModelConfig& config_;
  Values cache_;
  int64_t past_ = 0;
};

}  // namespace

std::vector<float> evaluate_onnx(const std::filesystem::path& directory, const ModelConfig& config,
                                 std::span<const int32_t> ids, Context& context) {
  const MappedFile graph(directory / "model.onnx"), data(directory / kDataFile);
  const OnnxFiles files{graph.path().string(), graph.bytes(), data.bytes(), [&] { data.release(); }};
  return evaluate_onnx(files, config, ids, context);
}

std::vector<float> evaluate_onnx(const OnnxFiles& files, const ModelConfig& config, std::span<const int32_t> ids,
                                 Context& context) {
  std::vector<int32_t> all(kPadding, 0);
  all.insert(all.end(), ids.begin(), ids.end());
  const std::span whole(all);
  const size_t first = whole.size() - ids.size() / 3;
  Decoder decoder(files, config, static_cast<int64_t>(all.size()), context);
  std::vector<float> logits;
  for (const auto& pass : {whole.first(first), whole.subspan(first)})
    if (!pass.empty()) std::ranges::copy(decoder.pass(pass), std::back_inserter(logits));
  logits.erase(logits.begin(), logits.begin() + kPadding * config.vocab_size);
  return logits;
}

}  // namespace retort

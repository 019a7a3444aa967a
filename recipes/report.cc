// The report of a recipe, as JSON and as a table.
#include <fmt/format.h>

#include <array>
#include <set>

#include "core/base/text.h"
#include "recipes/runner.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

using Row = std::vector<std::string>;

std::string number_of(const Json& metrics, const char* key, const char* format) {
  const auto found = metrics.find(key);
  if (found == metrics.end() || !found->is_number()) return "";
  return fmt::format(fmt::runtime(format), found->get<double>());
}

// Of all references that stages were compared with: "teacher" when it is one, else "reference".
std::string reference_name(const RecipeOutcome& outcome) {
  std::set<std::string> names;
  for (const StageOutcome& done : outcome.stages)
    for (const StageInput& input : done.stage->inputs)
      if (input.param == "reference") names.insert(input.stage.empty() ? input.path.filename().string() : input.stage);
  return names.size() == 1 ? "the " + *names.begin() : "reference";
}

Row stage_row(const StageOutcome& done) {
  const StageRecord& record = done.record;
  const std::string note = !record.as_asked ? "not as asked" : "";
  return {done.stage->name,
          std::string(done.stage->operation->name),
          fmt::format("{:.1f}", record.seconds) + (done.cached ? " (cached)" : ""),
          record.bytes == 0 ? "" : format_bytes(record.bytes),
          number_of(record.metrics, "perplexity", "{:.3f}"),
          number_of(record.metrics, "kl_mean", "{:.5f}"),
          done.output.string() + (note.empty() || done.output.empty() ? "" : "  ") + note};
}

// Columns padded to their widest cell; texts to the left, numbers to the right.
std::string aligned(const std::vector<Row>& rows, const std::string& sides) {
  std::vector<size_t> widths(sides.size(), 0);
  for (const Row& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      line += (i == 0 ? "" : "  ") + (sides[i] == '<' ? row[i] + padding : padding + row[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += (text.empty() ? "" : "\n") + line;
  }
  return text;
}

}  // namespace

std::string report_table(const RecipeOutcome& outcome) {
  std::vector<Row> rows{
      {"stage", "operation", "seconds", "bytes", "perplexity", "KL to " + reference_name(outcome), "result"}};
  for (const StageOutcome& done : outcome.stages) rows.push_back(stage_row(done));
  std::string text = aligned(rows, "<<>>>><");
  rows.clear();
  for (const GateOutcome& gate : outcome.gates)
    rows.push_back(
        {"gate", gate.gate.text, fmt::format("{:.6g}", gate.result.value), gate.result.passed ? "passed" : "FAILED"});
  if (!rows.empty()) text += "\n\n" + aligned(rows, "<<><");
  return text + fmt::format("\n\n{:.1f} s in this run", outcome.seconds);
}

Json report_json(const Recipe& recipe, const RecipeOutcome& outcome, const Context& context) {
  Json report{{"recipe", recipe.path.string()},    {"seconds", outcome.seconds}, {"device", context.device},
              {"threads", context.threads.size()}, {"seed", context.seed},       {"as_asked", outcome.as_asked()},
              {"stages", Json::array()},           {"gates", Json::array()}};
  for (const StageOutcome& done : outcome.stages) {
    const StageRecord& record = done.record;
    report["stages"].push_back(Json{{"stage", done.stage->name},
                                    {"operation", done.stage->operation->name},
                                    {"cached", done.cached},
                                    {"as_asked", record.as_asked},
                                    {"seconds", record.seconds},
                                    {"bytes", record.bytes},
                                    {"output", done.output.empty() ? Json() : Json(done.output.string())},
                                    {"digest", record.digest.empty() ? Json() : Json(record.digest)},
                                    {"metrics", record.metrics}});
  }
  for (const GateOutcome& gate : outcome.gates)
    report["gates"].push_back(Json{{"gate", gate.gate.text},
                                   {"value", gate.result.value},
                                   {"limit", gate.result.limit},
                                   {"passed", gate.result.passed}});
  return report;
}

}  // namespace retort

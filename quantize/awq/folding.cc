#include "quantize/awq/folding.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "quantize/awq/aim.h"
#include "quantize/grid.h"

namespace retort {
namespace {

// What computes the input of a group, element by element of it.
Role role_before(Input input) {
  switch (input) {
    case Input::kAttentionNorm: return Role::kAttentionNorm;
    case Input::kAttention: return Role::kValue;
    case Input::kFfnNorm: return Role::kFfnNorm;
    default: return Role::kUp;
  }
}

bool is_norm(Role role) { return role == Role::kAttentionNorm || role == Role::kFfnNorm; }

// The row of the operation before that each column reads.
ColumnChannels channels_of(const ModelConfig& config, Input input) {
  ColumnChannels channels;
  if (input != Input::kAttention) return channels;
  const int64_t queries = config.heads / config.kv_heads;  // that share a key-value head
  for (int64_t column = 0; column < config.query_size(); ++column)
    channels.push_back(column / config.head_dim / queries * config.head_dim + column % config.head_dim);
  return channels;
}

bool has_own_scales(const Scheme& scheme) { return scheme.granularity != Granularity::kTensor; }

// False where rounding changes a value by more than a 256th.
bool divide_by_row(std::vector<float>& values, std::span<const float> divisors, ScaleType type) {
  const size_t width = values.size() / divisors.size();
  for (size_t i = 0; i < values.size(); ++i) {
    const float exact = values[i] / divisors[i / width];
    values[i] = round_scale(exact, type);
    if (!(std::abs(values[i] - exact) <= std::abs(exact) / 256)) return false;
  }
  return true;
}

struct RowGrids {
  std::vector<float> scales, minima, outliers;
};

// The codes stay: a row's grid does not depend on its size. Nothing where f16 cannot hold the divided scales; small
// outliers may lose bits.
std::optional<RowGrids> divided(const SolvedMatrix& solved, std::span<const float> divisors) {
  const QuantizedMatrix& matrix = *solved.matrix;
  const bool super = matrix.scheme.is_super_block();
  RowGrids grids{super ? matrix.super.scales : matrix.scales, super ? matrix.super.minima : matrix.minima,
                 matrix.outliers};
  if (!divide_by_row(grids.scales, divisors, solved.scale_type)) return std::nullopt;
  if (!divide_by_row(grids.minima, divisors, ScaleType::kF16)) return std::nullopt;
  for (size_t i = 0, width = grids.outliers.size() / divisors.size(); i < grids.outliers.size(); ++i)
    grids.outliers[i] = round_to_f16(grids.outliers[i] / divisors[i / width]);
  if (!all_finite(grids.outliers)) return std::nullopt;
  return grids;
}

class Folder {
 public:
  Folder(const InputGroup& group, SolvedLayer& solved)
      : group_(group),
        config_(group.source.config()),
        solved_(solved),
        before_(role_before(group.input)),
        channels_(channels_of(config_, group.input)) {}

  const ColumnChannels& channels() const { return channels_; }

  bool possible() const {
    size_t readers = 0;
    for (const TensorRule& rule : config_.family->tensors) readers += rule.input == group_.input;
    if (group_.tasks.size() != readers) return false;
    if (!std::ranges::all_of(group_.tasks, [](const MatrixTask& task) { return has_own_scales(task.scheme); }))
      return false;
    if (is_norm(before_)) return true;
    const auto matrix = solved_.matrices.find(name_before(Part::kWeight));
    return matrix != solved_.matrices.end() && matrix->second.matrix && has_own_scales(matrix->second.matrix->scheme);
  }

  // False, and nothing done, where f16 cannot hold the divided scales of the matrix before.
  bool fold(std::span<const float> factors) {
    const std::vector<float> rows = row_factors(factors);
    if (is_norm(before_)) {
      divide_vector(name_before(Part::kWeight), rows);
      return true;
    }
    SolvedMatrix& matrix = solved_.matrices.at(name_before(Part::kWeight));
    if (!divided(matrix, rows)) return false;
    matrix.row_divisors = rows;
    if (group_.source.find(name_before(Part::kBias))) divide_vector(name_before(Part::kBias), rows);
    return true;
  }

 private:
  std::string name_before(Part part) const { return tensor_name(config_, before_, group_.layer, part); }

  std::vector<float> row_factors(std::span<const float> factors) const {
    if (channels_.empty()) return {factors.begin(), factors.end()};
    std::vector<float> rows(static_cast<size_t>(config_.kv_size()));
    for (size_t c = 0; c < factors.size(); ++c) rows[static_cast<size_t>(channels_[c])] = factors[c];
    return rows;
  }

  void divide_vector(const std::string& name, std::span<const float> divisors) {
    std::vector<float> values = group_.source.read_f32(group_.source.at(name));
    for (size_t i = 0; i < values.size(); ++i) values[i] /= divisors[i];
    solved_.vectors[name] = std::move(values);
  }

  const InputGroup& group_;
  const ModelConfig& config_;
  SolvedLayer& solved_;
  const Role before_;
  const ColumnChannels channels_;
};

}  // namespace

void divide_rows(SolvedLayer& layer) {
  for (auto& [name, solved] : layer.matrices) {
    if (solved.row_divisors.empty()) continue;
    QuantizedMatrix& matrix = *solved.matrix;
    const bool super = matrix.scheme.is_super_block();
    RowGrids grids = *divided(solved, solved.row_divisors);
    (super ? matrix.super.scales : matrix.scales) = std::move(grids.scales);
    (super ? matrix.super.minima : matrix.minima) = std::move(grids.minima);
    matrix.outliers = std::move(grids.outliers);
    if (super) expand_super_scales(matrix, 0, matrix.rows);
  }
}

std::vector<SolvedMatrix> solve_scaled(const Quantizer& quantizer, const InputGroup& group,
                                       const SolverOptions& options, SolvedLayer& solved, Context& context) {
  Folder folder(group, solved);
  const std::vector<MatrixTask> tasks = aimed(group.tasks, group.statistics, options, context);
  const auto unscaled = [&] { return quantizer.solve(tasks, &group.statistics, options, context); };
  InputScaling scaling;
  if (folder.possible()) scaling = find_input_scaling(tasks, group.statistics, folder.channels(), options, context);
  if (scaling.factors.empty()) return unscaled();
  std::vector<MatrixTask> larger;
  for (const MatrixTask& task : tasks) larger.push_back(scaled(task, scaling.factors));
  const InputStatistics divided = divided_inputs(group.statistics, scaling.factors);
  std::vector<SolvedMatrix> results = quantizer.solve(larger, &divided, options, context);
  const bool whole = std::ranges::all_of(results, [](const SolvedMatrix& result) { return result.matrix.has_value(); });
  if (!whole || !folder.fold(scaling.factors)) return unscaled();
  for (SolvedMatrix& result : results) {
    result.column_factors = scaling.factors;
    result.details["scaling"] = {{"activity", scaling.exponents.activity}, {"size", scaling.exponents.size}};
  }
  return results;
}

}  // namespace retort

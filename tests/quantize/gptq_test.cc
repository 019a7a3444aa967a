// GPTQ against a slow reference written from the paper (arXiv:2210.17323, section 3): plain loops in double, the
// inverse eliminated column by column (optimal brain quantization in a fixed order), no blocks, no Cholesky factor.
// The reference follows the solver's own codes, so that one weight near the middle between two codes does not hide
// whether all the others are right.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/dtype.h"
#include "quantize/gptq/cholesky.h"
#include "quantize/gptq/factor.h"
#include "quantize/gptq/solver.h"
#include "quantize/outliers.h"
#include "quantize/rounding.h"
#include "tests/quantize/matrix_task.h"

namespace retort {
namespace {

using Square = std::vector<std::vector<double>>;

// Second moment of inputs whose features lean on each other; `dead` features are always 0.
InputStatistics random_statistics(int64_t n, const std::vector<int64_t>& dead, unsigned seed) {
  const int64_t tokens = 3 * n;
  const auto noise = gaussian(static_cast<size_t>(tokens * n), 1.0f, seed);
  std::vector<double> inputs(static_cast<size_t>(tokens * n));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<size_t>(t * n + i);
      inputs[at] = (0.2 + 2.0 * static_cast<double>((i * 37) % n) / static_cast<double>(n)) * noise[at] +
                   (i > 0 ? 0.6 * inputs[at - 1] : 0.0);
    }
  std::vector<double> sums(static_cast<size_t>(n * n));
  for (int64_t t = 0; t < tokens; ++t) {  // a token at a time: its features lie together
    const double* token = inputs.data() + t * n;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) sums[static_cast<size_t>(i * n + j)] += token[i] * token[j];
  }
  InputStatistics statistics{n, std::vector<float>(static_cast<size_t>(n * n))};
  const auto is_dead = [&](int64_t i) { return std::ranges::find(dead, i) != dead.end(); };
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const auto at = static_cast<size_t>(i * n + j);
      statistics.second_moment[at] =
          is_dead(i) || is_dead(j) ? 0.0f : static_cast<float>(2 * sums[at] / static_cast<double>(tokens));
    }
  return statistics;
}

// H in the order of the solve with dead columns and damping as the paper's code has them.
Square damped_hessian(const InputStatistics& statistics, const std::vector<int64_t>& order, double damp) {
  const auto n = static_cast<size_t>(statistics.features);
  Square h(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j)
      h[i][j] = statistics.second_moment[static_cast<size_t>(order[i]) * n + static_cast<size_t>(order[j])];
  double mean = 0;
  for (size_t i = 0; i < n; ++i) {
    if (h[i][i] == 0) h[i][i] = 1;
    mean += h[i][i] / static_cast<double>(n);
  }
  for (size_t i = 0; i < n; ++i) h[i][i] += damp * mean;
  return h;
}

// Gauss-Jordan; H is positive definite, so no pivoting.
Square inverse_of(Square h) {
  const size_t n = h.size();
  Square inverse(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) inverse[i][i] = 1;
  for (size_t k = 0; k < n; ++k) {
    const double pivot = h[k][k];
    for (size_t j = 0; j < n; ++j) h[k][j] /= pivot, inverse[k][j] /= pivot;
    for (size_t i = 0; i < n; ++i) {
      const double factor = h[i][k];
      if (i == k || factor == 0) continue;
      for (size_t j = 0; j < n; ++j) h[i][j] -= factor * h[k][j], inverse[i][j] -= factor * inverse[k][j];
    }
  }
  return inverse;
}

// Removes feature k from the inverse: what is left is the inverse of H without row and column k.
void eliminate(Square& inverse, size_t k) {
  const std::vector<double> row = inverse[k];
  for (size_t i = k; i < inverse.size(); ++i)
    for (size_t j = k; j < inverse.size(); ++j) inverse[i][j] -= row[i] * row[j] / row[k];
}

struct Case {
  std::string scheme;
  bool activation_order = false;
};

class Gptq : public ::testing::TestWithParam<Case> {
 protected:
  GptqResult solve(const MatrixTask& task, const HessianFactor& factor, int threads = 1) {
    ThreadPool pool(threads);
    Context context{pool, sink_};
    return std::move(run_gptq({&task, 1}, factor, {}, context).front());
  }
  HessianFactor factor(const InputStatistics& statistics, const SolverOptions& options,
                       std::span<const int32_t> last = {}) {
    ThreadPool pool(1);
    Context context{pool, sink_};
    return factor_hessian(statistics, options, context, last);
  }
  ProgressSink sink_;
};

double value_of(const Scheme& scheme, const Grid& grid, int code) {
  const auto levels = levels_of(scheme.book);
  const double level = levels.empty() ? code - grid.zero : levels[static_cast<size_t>(code)];
  return static_cast<double>(grid.scale) * level - grid.minimum;
}

// Of the columns of a unit, each with the grid of its group.
double grid_error(const Scheme& scheme, std::span<const Grid> grids, const std::vector<float>& values,
                  const std::vector<float>& importance) {
  const size_t size = values.size() / grids.size();
  std::vector<uint8_t> codes(size);
  double sum = 0;
  for (size_t g = 0; g < grids.size(); ++g) {
    encode(scheme, grids[g], std::span(values).subspan(g * size, size), codes);
    for (size_t i = 0; i < size; ++i)
      sum += importance[g * size + i] * std::pow(values[g * size + i] - value_of(scheme, grids[g], codes[i]), 2);
  }
  return sum;
}

Grid grid_of(const QuantizedMatrix& m, int64_t row, int64_t group) {
  const auto at = static_cast<size_t>(row * m.groups() + group);
  return {m.scales[at], m.zero(row, group), m.minima.empty() ? 0.0f : m.minima[at]};
}

// One row, followed through the paper's recursion.
class RowReference {
 public:
  RowReference(const QuantizedMatrix& solved, int64_t row, const HessianFactor& factor, std::vector<double> weights)
      : solved_(solved), row_(row), factor_(factor), weights_(std::move(weights)) {}

  // The solver's grids of the unit that `columns` (places) form leave about the least error on the weights as they
  // are.
  void check_grid(int64_t unit, const std::vector<size_t>& places) const {
    std::vector<float> values, importance;
    for (const size_t place : places) {
      values.push_back(is_outlier(factor_.order[place]) ? 0.0f : static_cast<float>(weights_[place]));
      importance.push_back(factor_.pivots[place]);
    }
    const Scheme& scheme = solved_.scheme;
    const int64_t groups = scheme.unit_size(solved_.cols) / scheme.group_size(solved_.cols);
    std::vector<Grid> mine;
    for (int64_t g = 0; g < groups; ++g) mine.push_back(grid_of(solved_, row_, unit * groups + g));
    UnitGrids best;
    GridFitter(scheme).fit_unit(values, importance, best);
    // The compensated weights of the solver are float32: with the fine steps of 6 and 8 bits its scales may differ.
    const double slack = scheme.bits == 8 ? 3e-2 : scheme.bits == 6 ? 1e-2 : 2e-3;
    const std::span best_grids(best.groups.data(), static_cast<size_t>(groups));
    EXPECT_LE(grid_error(scheme, mine, values, importance),
              (1 + slack) * grid_error(scheme, best_grids, values, importance) + 1e-12)
        << "row " << row_ << " unit " << unit;
  }

  // The code at `place` is the nearest to the reference's weight (to a thousandth of a step: the solver works in
  // float32). Then the error goes to the later weights.
  void take(size_t place, const Square& inverse) {
    const int64_t column = factor_.order[place];
    if (is_outlier(column)) return take_outlier(place, column, inverse);
    const Grid grid = grid_of(solved_, row_, solved_.group_of(column));
    const int code = solved_.codes[static_cast<size_t>(row_ * solved_.cols + column)];
    const auto miss = [&](int c) { return std::abs(weights_[place] - value_of(solved_.scheme, grid, c)); };
    // The levels of iq4 lie ten scales apart and more.
    const double step = std::abs(grid.scale) * (solved_.scheme.book == CodeBook::kIq4 ? 10 : 1);
    for (const int other : {code - 1, code + 1}) {
      const bool exists = other >= 0 && other <= solved_.scheme.max_code();
      EXPECT_TRUE(!exists || miss(code) <= miss(other) + 1e-3 * step) << "row " << row_ << " place " << place;
    }
    const double error = (weights_[place] - value_of(solved_.scheme, grid, code)) / inverse[place][place];
    for (size_t k = place; k < weights_.size(); ++k) weights_[k] -= error * inverse[place][k];
  }

 private:
  bool is_outlier(int64_t column) const {
    return std::ranges::find(solved_.outlier_columns, column) != solved_.outlier_columns.end();
  }

  // The f16 number next to the reference's weight, to a few roundings of float32.
  void take_outlier(size_t place, int64_t column, const Square& inverse) {
    const auto count = static_cast<int64_t>(solved_.outlier_columns.size());
    const auto index = std::ranges::find(solved_.outlier_columns, column) - solved_.outlier_columns.begin();
    const double value = solved_.outliers[static_cast<size_t>(row_ * count + index)], weight = weights_[place];
    EXPECT_NEAR(value, weight, std::abs(weight) * 0x1p-11 + 1e-6) << "row " << row_ << " place " << place;
    const double error = (weight - value) / inverse[place][place];
    for (size_t k = place; k < weights_.size(); ++k) weights_[k] -= error * inverse[place][k];
  }

  const QuantizedMatrix& solved_;
  int64_t row_;
  const HessianFactor& factor_;
  std::vector<double> weights_;  // by place
};

std::vector<size_t> places_of_unit(const QuantizedMatrix& m, const HessianFactor& factor, int64_t unit) {
  std::vector<size_t> place(factor.order.size());
  for (size_t i = 0; i < place.size(); ++i) place[static_cast<size_t>(factor.order[i])] = i;
  const int64_t size = m.scheme.unit_size(m.cols);
  return {place.begin() + unit * size, place.begin() + (unit + 1) * size};
}

// OWQ (arXiv:2306.02272, section 3): the columns in 16 bits come last and are not rounded. Grids are those of the
// original weights, these columns left out.
TEST_F(Gptq, ColumnsIn16BitsTakeUpTheErrorsOfTheOthers) {
  constexpr int64_t kRows = 70, kCols = 384;
  const InputStatistics statistics = random_statistics(kCols, {7, 130}, 13);
  const auto weights = gaussian(kRows * kCols, 0.02f, 14);
  const std::vector<int32_t> outliers{0, 7, 100, 101, 300, 383};  // a dead one too
  for (const char* scheme : {"int4-g128-sym", "int3-g32-asym", "int2-g8-sym", "int4-channel-asym", "int8-tensor-sym"})
    for (const bool activation_order : {false, true}) {
      MatrixTask task = matrix_task(weights, kCols, scheme);
      task.outliers = outliers;
      const HessianFactor shared = factor(statistics, {.activation_order = activation_order}, outliers);
      EXPECT_TRUE(std::ranges::is_permutation(std::span(shared.order).last(6), outliers));
      const GptqResult result = solve(task, shared);
      ASSERT_TRUE(result.finite);
      check_matrix(result.matrix, scheme);
      EXPECT_EQ(result.matrix.outlier_columns, outliers);
      Square inverse = inverse_of(damped_hessian(statistics, shared.order, shared.damp));
      std::vector<RowReference> rows;
      for (int64_t r = 0; r < kRows; r += 23) {
        std::vector<double> row;
        for (const int64_t column : shared.order)
          row.push_back(shared.dead[static_cast<size_t>(column)] ? 0.0
                                                                 : weights[static_cast<size_t>(r * kCols + column)]);
        rows.emplace_back(result.matrix, r, shared, row);
      }
      const bool own_grids = task.scheme.granularity != Granularity::kTensor;
      for (int64_t unit = 0; own_grids && unit < task.scheme.groups(kCols); ++unit)
        for (const RowReference& row : rows) row.check_grid(unit, places_of_unit(result.matrix, shared, unit));
      for (size_t place = 0; place < static_cast<size_t>(kCols); ++place) {
        for (RowReference& row : rows) row.take(place, inverse);
        eliminate(inverse, place);
      }
    }
}

TEST_P(Gptq, FollowsThePaper) {
  const int64_t kRows = 70, kCols = parse_scheme(GetParam().scheme).is_super_block() ? 512 : 384;
  const std::vector<int64_t> dead{7, 130, 131};
  const InputStatistics statistics = random_statistics(kCols, dead, 11);
  const HessianFactor shared = factor(statistics, {.damp = 0.01, .activation_order = GetParam().activation_order});
  ASSERT_EQ(shared.failure, "");
  EXPECT_EQ(shared.damp, 0.01);
  const auto weights = gaussian(kRows * kCols, 0.02f, 12);
  const MatrixTask task = matrix_task(weights, kCols, GetParam().scheme);
  const GptqResult result = solve(task, shared);
  ASSERT_TRUE(result.finite);
  check_matrix(result.matrix, "result");
  const auto decoded = dequantize(result.matrix);
  // Neither grids with a minimum nor the levels of iq4 need hold 0.
  const bool has_zero = !task.scheme.has_minima() && task.scheme.book != CodeBook::kIq4;
  for (const int64_t column : dead)
    for (int64_t r = 0; has_zero && r < kRows; ++r) EXPECT_EQ(decoded[static_cast<size_t>(r * kCols + column)], 0.0f);

  const bool static_grids = GetParam().activation_order || task.scheme.groups(kCols) == 1;
  const bool own_grids = task.scheme.granularity != Granularity::kTensor;
  std::vector<RowReference> rows;
  for (int64_t r = 0; r < kRows; r += 23) {  // rows 0, 23, 46 and 69, the last in a shard of its own
    std::vector<double> row;
    for (const int64_t column : shared.order)
      row.push_back(shared.dead[static_cast<size_t>(column)] ? 0.0 : weights[static_cast<size_t>(r * kCols + column)]);
    rows.emplace_back(result.matrix, r, shared, row);
  }
  const int64_t unit_size = task.scheme.unit_size(kCols);
  if (static_grids && own_grids)
    for (int64_t unit = 0; unit < kCols / unit_size; ++unit)
      for (const RowReference& row : rows) row.check_grid(unit, places_of_unit(result.matrix, shared, unit));
  Square inverse = inverse_of(damped_hessian(statistics, shared.order, 0.01));
  for (int64_t place = 0; place < kCols; ++place) {
    const bool starts = place % unit_size == 0 && !static_grids && own_grids;
    for (RowReference& row : rows) {
      if (starts) row.check_grid(place / unit_size, places_of_unit(result.matrix, shared, place / unit_size));
      row.take(static_cast<size_t>(place), inverse);
    }
    eliminate(inverse, static_cast<size_t>(place));
  }
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const char* scheme : {"int4-g128-sym",
                             "int4-g32-sym",
                             "int4-g96-asym",
                             "int4-g192-sym",
                             "int3-g64-asym",
                             "int2-g8-asym",
                             "int2-g384-sym",
                             "int4-channel-sym",
                             "int8-channel-asym",
                             "int3-g48-sym",
                             "int8-g128-sym",
                             "int4-tensor-sym",
                             "int4-tensor-asym",
                             "q4_0",
                             "q8_0",
                             "nf4-g64",
                             "q4_1",
                             "q5_0",
                             "iq4_nl",
                             "q2_k",
                             "q3_k",
                             "q4_k",
                             "q6_k",
                             "iq4_xs"})
    cases.push_back({scheme, false});
  for (const char* scheme : {"int4-g128-sym", "int3-g32-asym", "int4-channel-asym", "q4_0", "nf4-g32", "q5_1", "q2_k",
                             "q3_k", "q5_k", "iq4_xs"})
    cases.push_back({scheme, true});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Schemes, Gptq, ::testing::ValuesIn(all_cases()), [](const auto& info) {
  std::string label = info.param.scheme + (info.param.activation_order ? "_activation" : "");
  std::replace(label.begin(), label.end(), '-', '_');
  return label;
});

// tr(E H E^T), from the definition.
double objective_of(const std::vector<float>& weights, const QuantizedMatrix& m, const HessianFactor& f,
                    const InputStatistics& statistics) {
  std::vector<int64_t> natural(static_cast<size_t>(m.cols));
  std::iota(natural.begin(), natural.end(), 0);
  const Square h = damped_hessian(statistics, natural, f.damp);
  const auto decoded = dequantize(m);
  double sum = 0;
  for (int64_t r = 0; r < m.rows; ++r) {
    std::vector<double> e(static_cast<size_t>(m.cols));
    for (size_t c = 0; c < e.size(); ++c) {
      const auto at = static_cast<size_t>(r * m.cols) + c;
      e[c] = (f.dead[c] ? 0.0 : weights[at]) - decoded[at];
    }
    for (size_t i = 0; i < e.size(); ++i)
      for (size_t j = 0; j < e.size(); ++j) sum += e[i] * h[i][j] * e[j];
  }
  return sum;
}

TEST_F(Gptq, ObjectiveIsTheOutputErrorAndBelowRounding) {
  const InputStatistics statistics = random_statistics(256, {3}, 21);
  const auto weights = gaussian(64 * 256, 0.02f, 22);
  for (const char* scheme : {"int4-g64-sym", "int2-g32-asym", "q4_0", "q4_k"}) {
    for (const bool activation_order : {false, true}) {
      const MatrixTask task = matrix_task(weights, 256, scheme);
      const HessianFactor shared = factor(statistics, {.activation_order = activation_order});
      const GptqResult result = solve(task, shared);
      EXPECT_NEAR(result.objective / objective_of(weights, result.matrix, shared, statistics), 1.0, 1e-3) << scheme;
      ThreadPool pool(1);
      Context context{pool, sink_};
      const SolvedMatrix rounded = round_to_nearest(task, Rounding{}, context);
      EXPECT_LT(result.objective, 0.6 * objective_of(weights, *rounded.matrix, shared, statistics)) << scheme;
    }
  }
}

// Coordinate descent from the definition, in double, from the codes of the first pass.
std::vector<uint8_t> descended(const std::vector<float>& weights, const QuantizedMatrix& m, int64_t row,
                               const Square& h, int sweeps) {
  const auto first = static_cast<size_t>(row * m.cols);
  std::vector<uint8_t> codes(m.codes.begin() + row * m.cols, m.codes.begin() + (row + 1) * m.cols);
  std::vector<double> error(codes.size());
  const auto value = [&](size_t c, int code) {
    return value_of(m.scheme, grid_of(m, row, m.group_of(static_cast<int64_t>(c))), code);
  };
  for (size_t c = 0; c < error.size(); ++c) error[c] = weights[first + c] - value(c, codes[c]);
  for (int sweep = 0; sweep < sweeps; ++sweep)
    for (size_t c = 0; c < error.size(); ++c) {
      double slope = 0, least = std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < error.size(); ++i)
        if (i != c) slope += h[c][i] * error[i];
      for (int code = 0; code <= m.scheme.max_code(); ++code) {
        const double e = weights[first + c] - value(c, code), objective = e * (h[c][c] * e + 2 * slope);
        if (objective < least) least = objective, codes[c] = static_cast<uint8_t>(code), error[c] = e;
      }
    }
  return codes;
}

TEST_F(Gptq, SecondPassDescendsByCoordinates) {
  const InputStatistics statistics = random_statistics(256, {}, 51);
  const auto weights = gaussian(70 * 256, 0.02f, 52);
  for (const char* scheme : {"int4-g64-sym", "int2-g32-asym", "nf4-g64", "q3_k", "q4_k"}) {
    for (const bool activation_order : {false, true}) {
      const MatrixTask task = matrix_task(weights, 256, scheme);
      const GptqResult first = solve(task, factor(statistics, {.activation_order = activation_order}));
      const HessianFactor shared = factor(statistics, {.activation_order = activation_order, .second_pass = true});
      const GptqResult second = solve(task, shared), threads = solve(task, shared, 3);
      EXPECT_EQ(second.matrix.codes, threads.matrix.codes);
      EXPECT_EQ(second.matrix.scales, first.matrix.scales);
      EXPECT_LT(second.objective, 0.99 * first.objective) << scheme;
      EXPECT_NEAR(second.objective / objective_of(weights, second.matrix, shared, statistics), 1.0, 1e-3) << scheme;
      std::vector<int64_t> natural(256);
      std::iota(natural.begin(), natural.end(), 0);
      const Square h = damped_hessian(statistics, natural, shared.damp);
      int64_t different = 0;
      for (int64_t row = 0; row < 70; row += 3) {
        const auto codes = descended(weights, first.matrix, row, h, 16);
        for (int64_t c = 0; c < 256; ++c)
          different += codes[static_cast<size_t>(c)] != second.matrix.codes[static_cast<size_t>(row * 256 + c)];
      }
      EXPECT_LT(different, 24 * 256 / 100) << scheme;  // float32 and double part at near ties
    }
  }
}

// After the second pass no single code, and no column in 16 bits, can be better while all others stay: from the
// definition, in double.
TEST_F(Gptq, SecondPassEndsWhereNoColumnCanBeBetter) {
  constexpr int64_t kRows = 20, kCols = 256;
  const InputStatistics statistics = random_statistics(kCols, {}, 53);
  const auto weights = gaussian(kRows * kCols, 0.02f, 54);
  std::vector<int64_t> natural(kCols);
  std::iota(natural.begin(), natural.end(), 0);
  ThreadPool pool(2);
  Context context{pool, sink_};
  for (const char* scheme : {"int4-g64-sym", "int3-g32-asym"}) {
    MatrixTask task = matrix_task(weights, kCols, scheme);
    const double plain = solve(task, factor(statistics, {.activation_order = true, .second_pass = true})).objective;
    choose_outliers({&task, 1}, 6, statistics.diagonal(), GridRule::kSmallestError, context);
    const std::vector<int32_t>& outliers = task.outliers;
    const GptqResult first = solve(task, factor(statistics, {.activation_order = true}, outliers));
    const HessianFactor shared = factor(statistics, {.activation_order = true, .second_pass = true}, outliers);
    const GptqResult second = solve(task, shared), threads = solve(task, shared, 3);
    EXPECT_EQ(second.matrix.codes, threads.matrix.codes);
    EXPECT_EQ(second.matrix.outliers, threads.matrix.outliers);
    check_matrix(second.matrix, scheme);
    EXPECT_LT(second.objective, 0.99 * first.objective) << scheme;
    EXPECT_LT(second.objective, 0.97 * plain) << scheme;
    EXPECT_NEAR(second.objective / objective_of(weights, second.matrix, shared, statistics), 1.0, 1e-3) << scheme;
    const Square h = damped_hessian(statistics, natural, shared.damp);
    const std::vector<float> decoded = dequantize(second.matrix);
    int64_t better = 0;
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t c = 0; c < kCols; ++c) {
        const auto at = [&](int64_t column) { return static_cast<size_t>(row * kCols + column); };
        const auto miss = [&](int64_t column) {
          return static_cast<double>(weights[at(column)]) - decoded[at(column)];
        };
        const size_t i = static_cast<size_t>(c);
        double slope = 0;
        for (int64_t k = 0; k < kCols; ++k) slope += h[i][static_cast<size_t>(k)] * miss(k);
        if (std::ranges::find(outliers, c) != outliers.end()) {
          // Where the derivative is 0, to the spacing of f16.
          EXPECT_NEAR(slope / h[i][i], 0, std::abs(decoded[at(c)]) * 0x1p-10 + 1e-6)
              << scheme << " " << row << " " << c;
          continue;
        }
        const Grid grid = grid_of(second.matrix, row, second.matrix.group_of(c));
        const double wanted = decoded[at(c)] + slope / h[i][i];  // the best of all numbers for this column
        const auto distance = [&](int code) { return std::abs(wanted - value_of(task.scheme, grid, code)); };
        const int code = second.matrix.codes[at(c)];
        for (int other = 0; other <= task.scheme.max_code(); ++other)
          better += distance(other) < distance(code) - 1e-3 * grid.scale;
      }
    EXPECT_EQ(better, 0) << scheme;
  }
}

TEST_F(Gptq, ThreadsDoNotChangeTheResult) {
  const InputStatistics statistics = random_statistics(300, {}, 31);
  const auto weights = gaussian(330 * 300, 0.02f, 32);
  const HessianFactor shared = factor(statistics, {});
  const MatrixTask task = matrix_task(weights, 300, "int4-g100-asym");
  const GptqResult one = solve(task, shared, 1), three = solve(task, shared, 3);
  EXPECT_EQ(one.matrix.codes, three.matrix.codes);
  EXPECT_EQ(one.matrix.scales, three.matrix.scales);
  EXPECT_EQ(one.matrix.zeros, three.matrix.zeros);
  EXPECT_EQ(one.objective, three.objective);
}

TEST_F(Gptq, DampingStepsUpUntilTheFactorizationSucceeds) {
  InputStatistics statistics{2, {1.0f, 1.5f, 1.5f, 1.0f}};  // eigenvalues 2.5 and -0.5
  const HessianFactor shared = factor(statistics, {.damp = 0.01});
  EXPECT_EQ(shared.failure, "");
  EXPECT_NEAR(shared.damp, 0.64, 1e-12);
  EXPECT_EQ(factor({2, {1.0f, 1.0f, 1.0f, 1.0f}}, {.damp = 0}).damp, 1e-3);
}

TEST_F(Gptq, WhatHasNoFactorIsRoundedAndSaysSo) {
  const auto weights = gaussian(4 * 32, 0.02f, 41);
  const MatrixTask task = matrix_task(weights, 32, "int4-g32-sym");
  InputStatistics indefinite{32, std::vector<float>(32 * 32, 5.0f)}, broken = indefinite;
  for (size_t i = 0; i < 32; ++i) indefinite.second_moment[i * 33] = 1.0f;
  broken.second_moment[40] = std::numeric_limits<float>::quiet_NaN();
  ThreadPool pool(2);
  Context context{pool, sink_};
  for (const InputStatistics& statistics : {indefinite, broken}) {
    const SolvedMatrix solved = std::move(solve_gptq({&task, 1}, &statistics, {}, context).front());
    const SolvedMatrix rounded = round_to_nearest(task, Rounding{}, context);
    ASSERT_TRUE(solved.matrix);
    EXPECT_EQ(solved.method, "rtn");
    EXPECT_NE(solved.fallback, "");
    EXPECT_EQ(solved.matrix->codes, rounded.matrix->codes);
  }
}

TEST_F(Gptq, WeightsThatAreNotFiniteAreNotQuantized) {
  auto weights = gaussian(100 * 32, 0.02f, 42);
  weights[70 * 32 + 5] = std::numeric_limits<float>::infinity();
  const MatrixTask task = matrix_task(weights, 32, "int4-g32-sym");
  const InputStatistics statistics = random_statistics(32, {}, 43);
  ThreadPool pool(2);
  Context context{pool, sink_};
  const SolvedMatrix solved = std::move(solve_gptq({&task, 1}, &statistics, {}, context).front());
  EXPECT_FALSE(solved.matrix);
  EXPECT_NE(solved.fallback, "");
}

// Weights far from zero that lie close together: a small scale, and a minimum that f16 cannot hold.
TEST_F(Gptq, AMinimumThatF16CannotHoldIsNotStored) {
  auto weights = gaussian(4 * 32, 50.0f, 44);
  for (float& weight : weights) weight += 1e5f;
  const MatrixTask task = matrix_task(weights, 32, "q4_1");
  const InputStatistics statistics = random_statistics(32, {}, 45);
  ThreadPool pool(2);
  Context context{pool, sink_};
  const SolvedMatrix solved = std::move(solve_gptq({&task, 1}, &statistics, {}, context).front());
  EXPECT_FALSE(solved.matrix);
  EXPECT_NE(solved.fallback, "");
}

TEST(FactorUpper, IsTheCholeskyFactorFromTheLastRowUp) {
  constexpr int64_t kSize = 600;  // two whole tiles and a part
  at::manual_seed(1);
  const at::Tensor noise = at::randn({kSize, kSize}, at::kDouble);
  const at::Tensor matrix = at::matmul(noise, noise.t()) + 10 * at::eye(kSize, at::kDouble);
  ProgressSink sink;
  ThreadPool one(1), three(3);
  at::Tensor factor = matrix.to(at::kFloat).triu(), again = factor.clone();
  ASSERT_TRUE(factor_upper(factor, Context{one, sink}));
  ASSERT_TRUE(factor_upper(again, Context{three, sink}));
  EXPECT_TRUE(at::equal(factor.triu(), again.triu()));
  const at::Tensor product = at::matmul(factor.triu().to(at::kDouble), factor.triu().to(at::kDouble).t());
  EXPECT_LT((product - matrix).norm().item<double>() / matrix.norm().item<double>(), 1e-6);
  at::Tensor indefinite = matrix.to(at::kFloat);
  indefinite[500][500] = -1.0f;
  EXPECT_FALSE(factor_upper(indefinite, Context{one, sink}));
}

}  // namespace
}  // namespace retort

// Logits of every family and variant against transformers (tests/oracles/make_families.py), and a real model's text.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/checkpoint/model_source.h"
#include "core/checkpoint/safetensors.h"
#include "runtime/engine.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

const fs::path kFamilies = fs::path(RETORT_SOURCE_DIR) / "tests/golden/families";

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFamilies)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

template <typename T>
std::vector<T> read_golden(const SafetensorsFile& file, std::string_view name) {
  for (const TensorInfo& info : file.tensors()) {
    if (info.name != name) continue;
    std::vector<T> values;
    const auto bytes = file.data(info);
    if (info.dtype == DType::kI64) {
      for (size_t at = 0; at < bytes.size(); at += 8) {
        int64_t value;
        std::memcpy(&value, bytes.data() + at, 8);
        values.push_back(static_cast<T>(value));
      }
    } else {
      values.resize(bytes.size() / 4);
      std::memcpy(values.data(), bytes.data(), bytes.size());
    }
    return values;
  }
  ADD_FAILURE() << "no tensor " << name;
  return {};
}

double largest_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) most = std::max(most, std::fabs(double{a[i]} - b[i]));
  return most;
}

class FamilyGoldens : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, FamilyGoldens, ::testing::ValuesIn(family_names()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(FamilyGoldens, LogitsEqualThoseOfTransformers) {
  const fs::path directory = kFamilies / GetParam();
  const SafetensorsFile golden(directory / "golden.safetensors");
  const auto tokens = read_golden<int32_t>(golden, "input_ids");
  const auto expected = read_golden<float>(golden, "logits"),
             expected_steps = read_golden<float>(golden, "step_logits");
  ThreadPool threads(2);
  ProgressSink silent;
  Context context{threads, silent};
  const auto engine = load_engine(*open_model(directory), {}, context);
  const auto count = static_cast<int64_t>(tokens.size());
  const auto session = engine->new_session(count);
  std::vector<float> logits(expected.size());
  engine->forward(*session, tokens, count, logits);
  EXPECT_LT(largest_difference(logits, expected), 1e-4);

  const auto vocabulary = static_cast<size_t>(engine->config().vocab_size);
  const size_t steps = expected_steps.size() / vocabulary, prefill = tokens.size() - steps;
  std::vector<float> stepped(expected_steps.size());
  session->reset();
  engine->forward(*session, std::span(tokens).first(prefill), 0, {});
  for (size_t i = 0; i < steps; ++i)
    engine->forward(*session, std::span(tokens).subspan(prefill + i, 1), 1,
                    std::span(stepped).subspan(i * vocabulary, vocabulary));
  EXPECT_LT(largest_difference(stepped, expected_steps), 1e-4);
}

}  // namespace
}  // namespace retort

// What verify holds artifacts to, against transformers (tests/oracles/make_families.py) for every family.
#include "export/verify/plain_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/checkpoint/safetensors.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

const fs::path kFamilies = fs::path(RETORT_SOURCE_DIR) / "tests/golden/families";

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFamilies)) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  return names;
}

template <typename Stored>
std::vector<Stored> read_golden(const SafetensorsFile& file, std::string_view name) {
  const auto info = std::ranges::find(file.tensors(), name, &TensorInfo::name);
  std::vector<Stored> values(file.data(*info).size() / sizeof(Stored));
  std::memcpy(values.data(), file.data(*info).data(), values.size() * sizeof(Stored));
  return values;
}

class PlainLogits : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, PlainLogits, ::testing::ValuesIn(family_names()), [](const auto& info) {
  std::string name = info.param;
  std::ranges::replace(name, '-', '_');
  return name;
});

TEST_P(PlainLogits, AreThoseOfTransformers) {
  const SafetensorsFile golden(kFamilies / GetParam() / "golden.safetensors");
  const auto stored = read_golden<int64_t>(golden, "input_ids");
  const auto expected = read_golden<float>(golden, "logits");
  const std::vector<int32_t> ids(stored.begin(), stored.end());
  ThreadPool threads(2);
  ProgressSink silent;
  const std::vector<float> logits = plain_logits(*open_model(kFamilies / GetParam()), ids, {threads, silent});
  ASSERT_EQ(logits.size(), expected.size());
  float most = 0;
  for (const float value : expected) most = std::max(most, std::abs(value));
  for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected[i], 1e-5 * most) << i;
}

}  // namespace
}  // namespace retort

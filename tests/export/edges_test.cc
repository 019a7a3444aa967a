// Models at the edge of what a format can say: mixed widths, nothing left as integers, tokenizers with more rules than
// GGUF has, files beside the model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
#include "export/exporter.h"
#include "export/provenance.h"
#include "export/verifier.h"
#include "onnx_subset.pb.h"
#include "tests/export/quantized_model.h"
#include "tests/support/memory_source.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::quantized_model;
using ::testing::SizeIs;
using testing::TempDir;
using testing::TinyModel;

class Edges : public ::testing::Test {
 protected:
  // Rows of whole super-blocks.
  TinyModel shape_{.hidden_size = 256, .ffn_size = 512, .layers = 2, .head_dim = 64};

  fs::path place(const std::string& name) const { return temp_.path() / name; }
  ExportSummary export_to(const std::string& name, const ModelSource& source, const ExportOptions& options) {
    if (export_format(options.format).directory) fs::create_directories(place(name));
    return export_model(source, place(name), options, context_);
  }
  std::string error_of(const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  std::string error_of_export(const ModelSource& source, const ExportOptions& options) {
    return error_of([&] { export_to("refused", source, options); });
  }
  VerifyResult verify(const std::string& name, const ModelSource& source) {
    return verify_artifact(place(name), source, context_);
  }

  TempDir temp_;
  ThreadPool threads_{1};
  ProgressSink silent_;
  Context context_{threads_, silent_};
};

// Gives the matrices with `part` in their name random codes in another scheme.
testing::Edit in_scheme(const std::string& part, const std::string& scheme) {
  return [=](const std::string& name, QuantizedMatrix& matrix) {
    testing::Random random(5);
    if (name.find(part) != std::string::npos)
      matrix = testing::random_quantized(parse_scheme(scheme), matrix.rows, matrix.cols, random);
  };
}

// The file has one width: what is narrower than that moves its zero points, what is as wide keeps them.
TEST_F(Edges, KeepTheZeroPointsOfMatricesOfAnotherWidth) {
  for (const char* format : {"awq", "gptq"})
    for (const auto& [most, some] : {std::pair("int3-g32-sym", "int4-g32-asym"), {"int4-g32-sym", "int3-g32-asym"}}) {
      const std::string name = std::string(format) + most;
      const auto source = quantized_model(place("of-" + name), shape_, most, false, in_scheme("down_proj", some));
      const ExportSummary made = export_to(name, *source, {.format = format, .type = {}, .fallback = DType::kF32});
      const VerifyResult result = verify(name, *source);
      EXPECT_TRUE(result.equal()) << name << ::testing::PrintToString(result.differences);
      EXPECT_THAT(made.fallbacks, SizeIs(name == "gptqint3-g32-sym" ? 2 : 0)) << name;
    }
}

// What would be left has no integers for the settings to describe.
TEST_F(Edges, RefuseAFallbackOfEveryMatrix) {
  const std::pair<const char*, const char*> cases[]{
      {"mlx", "q6_k"}, {"gptq", "q5_0"}, {"compressed-tensors", "q5_0"}, {"awq", "int8-g32-sym"}};
  for (const auto& [format, scheme] : cases) {
    const auto source = quantized_model(place(format), shape_, scheme, true);
    EXPECT_THAT(error_of_export(*source, {.format = format, .type = {}, .fallback = DType::kF32}),
                HasSubstr("none of its integers has a place in " + std::string(format) + ". Use --format hf"));
    EXPECT_TRUE(fs::is_empty(place("refused"))) << "something was written";
  }
}

// transformers keeps further chat templates in a directory of their own.
TEST_F(Edges, KeepSideFilesThatLieInADirectory) {
  quantized_model(temp_.path(), shape_, "int4-g32-sym");
  fs::create_directory(place("quantized/additional_chat_templates"));
  write_text_file(place("quantized/additional_chat_templates/tools.jinja"), "{{ tools }}");
  const auto source = open_model(place("quantized"));
  for (const std::string format : {"hf", "onnx", "gptq"}) {
    export_to(format, *source, {.format = format, .type = {}});
    EXPECT_EQ(read_text_file(place(format + "/additional_chat_templates/tools.jinja")), "{{ tools }}");
    EXPECT_TRUE(verify(format, *source).equal());
  }
}

}  // namespace
}  // namespace retort

#include "export/verify/artifact.h"

#include "core/base/error.h"
#include "core/base/json.h"
#include "export/verify/safetensors_artifact.h"

namespace retort {

void fail_artifact(const ExpectedTensor& expected, const std::string& reason) {
  fail("verify", expected.name, reason, "The artifact is damaged, or was made from another model");
}

int64_t rows_of(const ExpectedTensor& expected) { return expected.shape.front(); }
int64_t cols_of(const ExpectedTensor& expected) { return expected.shape.size() < 2 ? 1 : expected.shape[1]; }

ArtifactTensor dense_artifact(const ExpectedTensor& expected, DType type, std::span<const std::byte> bytes) {
  ArtifactTensor tensor;
  tensor.rows = rows_of(expected);
  tensor.cols = cols_of(expected);
  tensor.dense = type;
  if (bytes.size() != static_cast<size_t>(tensor.rows * tensor.cols) * size_of(type))
    fail_artifact(expected, "it has another size than in the model");
  tensor.bytes.assign(bytes.begin(), bytes.end());
  return tensor;
}

std::vector<ConfigNumber> numbers_of_directory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return numbers_of(parse_config(read_json_file(path), path.string()), "config.json");
}

Json self_of_directory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return json_value(read_json_file(path), "retort", Json::object(), path.string());
}

std::unique_ptr<ArtifactReader> open_hf_artifact(const std::filesystem::path& directory) {
  return std::make_unique<HfArtifact>(directory);
}

std::string_view hard_text() {
  return "The quick brown fox can't, won't & didn't: it's 3.14159 of 1,234,567 (or 0x7FFF)!\n\n"
         "\tTabs\t\tand   runs    of     blanks \n \n  \r\n\r ends   \n"
         "def f(x):\n        return {'a': [1, 2], \"b\": x**2}  # ~`@$%^&*_+=|\\<>?/;\n"
         "H\xC3\xA9llo na\xC3\xAFve fa\xC3\xA7"
         "ade stra\xC3\x9F"
         "e \xC5\x81\xC3\xB3"
         "d\xC5\xBA e\xCC\x81 o\xCC\x88\n"
         "\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 \xCE\xBA\xCF\x8C\xCF\x83\xCE\xBC\xCE\xB5 "
         "\xD7\xA9\xD7\x9C\xD7\x95\xD7\x9D \xD9\x85\xD8\xB1\xD8\xAD\xD8\xA8\xD8\xA7 "
         "\xE0\xA4\xA8\xE0\xA4\xAE\xE0\xA4\xB8\xE0\xA5\x8D\xE0\xA4\xA4\xE0\xA5\x87 "
         "\xE4\xBD\xA0\xE5\xA5\xBD\xE4\xB8\x96\xE7\x95\x8C "
         "\xE3\x81\x93\xE3\x82\x93\xE3\x81\xAB\xE3\x81\xA1\xE3\x81\xAF "
         "\xEC\x95\x88\xEB\x85\x95 \xE0\xB8\xAA\xE0\xB8\xA7\xE0\xB8\xB1\xE0\xB8\xAA\xE0\xB8\x94\xE0\xB8\xB5\n"
         "\xF0\x9F\x98\x80\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7 "
         "\xF0\x9F\x87\xA9\xF0\x9F\x87\xAA \xF0\x9F\x8F\xB3\xEF\xB8\x8F\xE2\x80\x8D\xF0\x9F\x8C\x88 \xE2\x80\x8B"
         "\xC2\xA0\xE2\x80\xA8\xEF\xBB\xBF \xE2\x96\x81under\xE2\x96\x81score\n"
         "\x01\x02\x07\x1B[31m\x7F \xE2\x82\xAC\xE2\x88\x9E\xE2\x89\xA0\xC2\xBD \xEF\xAC\x81 \xE2\x85\xA7 "
         "[INST] [/INST] <0x0A> </div> <|\n"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa "
         "00000000000000000000000000000000 ----------------------------------------------------------------";
}

}  // namespace retort

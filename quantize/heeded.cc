#include "quantize/heeded.h"

#include <algorithm>
#include <array>

#include "quantize/quantizer.h"
#include "quantize/tune/tune.h"

namespace retort {
namespace {

using Names = std::array<std::string_view, 6>;

// A part of a run and the options that it reads. Options that no row names are read by all runs.
struct Reader {
  bool (*runs)(const QuantizeOptions&, const Quantizer&);
  Names options;
};

constexpr Reader kReaders[] = {
    {[](const QuantizeOptions&, const Quantizer& q) { return q.needs_calibration; },
     {"calibration", "samples", "sequence-length", "aim", "precision", "device"}},
    {[](const QuantizeOptions&, const Quantizer& q) { return q.solve == solve_gptq; },
     {"group-order", "second-pass", "damp"}},
    {[](const QuantizeOptions& o, const Quantizer& q) { return q.scales_inputs && o.aim == "float"; }, {"damp"}},
    {[](const QuantizeOptions&, const Quantizer& q) { return q.weighs_columns; }, {"imatrix", "save-imatrix"}},
    {[](const QuantizeOptions& o, const Quantizer& q) { return q.weighs_columns && o.imatrix.empty(); },
     {"calibration", "samples", "sequence-length", "device"}},
    {[](const QuantizeOptions&, const Quantizer& q) { return !q.needs_calibration; }, {"grid"}},
    {[](const QuantizeOptions& o, const Quantizer&) { return o.scheme == "auto"; }, {"calibration"}},
    {[](const QuantizeOptions& o, const Quantizer&) { return o.scheme == "auto" && !o.calibration.empty(); },
     {"samples", "sequence-length", "device"}},
    {[](const QuantizeOptions& o, const Quantizer&) { return tunes(o); }, {"calibration", "sequence-length", "device"}},
};

bool reads(const Reader& reader, std::string_view name) {
  return std::ranges::find(reader.options, name) != reader.options.end();
}

bool heeds(const QuantizeOptions& options, const Quantizer& quantizer, std::string_view name) {
  return std::ranges::any_of(
      kReaders, [&](const Reader& reader) { return reads(reader, name) && reader.runs(options, quantizer); });
}

}  // namespace

std::string why_unheeded(const QuantizeOptions& options, std::string_view name) {
  const bool particular = std::ranges::any_of(kReaders, [&](const Reader& reader) { return reads(reader, name); });
  if (!particular || heeds(options, find_quantizer(options.method), name)) return {};
  std::string others;
  for (const Quantizer& quantizer : quantizers())
    if (heeds(options, quantizer, name)) others += (others.empty() ? "" : ", ") + std::string(quantizer.name);
  return "the method '" + options.method + "' does not read it here" +
         (others.empty() ? "" : "; methods that do: " + others);
}

}  // namespace retort

// The writers behind the table of formats.
#pragma once

#include <memory>

#include "export/exporter.h"

namespace retort {

std::unique_ptr<ArtifactWriter> make_gguf_writer(const ModelSource& source, const ExportOptions& options);
std::unique_ptr<ArtifactWriter> make_onnx_writer(const ModelSource& source, const ExportOptions& options);
std::unique_ptr<ArtifactWriter> make_gptq_writer(const ModelSource& source, const ExportOptions& options);
std::unique_ptr<ArtifactWriter> make_awq_writer(const ModelSource& source, const ExportOptions& options);
std::unique_ptr<ArtifactWriter> make_compressed_tensors_writer(const ModelSource& source, const ExportOptions& options);
std::unique_ptr<ArtifactWriter> make_mlx_writer(const ModelSource& source, const ExportOptions& options);
std::unique_ptr<ArtifactWriter> make_hf_writer(const ModelSource& source, const ExportOptions& options);

}  // namespace retort

"""Writes tests/golden/blocks/<type>.bin: random blocks of each ggml type, then their values in float32, as the
`gguf` package decodes them. Run: python make_block_goldens.py"""
import importlib.metadata
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
# Byte offsets of the float16 fields of each block: random bits there could be NaN, so they get finite values.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
BLOCKS = 16

folder = pathlib.Path(__file__).parent.parent / "golden" / "blocks"
folder.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(20)
for name in TYPES:
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for offset in HALVES[name]:
        blocks[:, offset:offset + 2] = (rng.standard_normal((BLOCKS, 1)) * 0.01).astype(np.float16).view(np.uint8)
    values = dequantize(blocks, kind).astype(np.float32)
    assert values.shape == (BLOCKS, elements) and np.isfinite(values).all(), name
    (folder / f"{name.lower()}.bin").write_bytes(blocks.tobytes() + values.tobytes())
(folder / "VERSION.txt").write_text(f"gguf {importlib.metadata.version('gguf')}, numpy {np.__version__}, "
                                    f"python {sys.version.split()[0]}\n")

#!/usr/bin/env python3
"""Writes tests/golden/ggml_blocks.json: float blocks and the bytes that gguf.quants makes of them.

Made with gguf 0.19.0 and numpy 2.4.6:
    python tests/oracles/make_ggml_blocks.py > tests/golden/ggml_blocks.json
"""
import importlib.metadata
import json
import sys

import gguf
import numpy as np


def blocks():
    random = np.random.default_rng(1)
    rows = [random.normal(scale=s, size=32) for s in (0.02, 0.02, 0.02, 1.0, 30.0, 1e-5, 3e-7)]
    rows.append(np.zeros(32))
    rows.append(np.linspace(-8, 7, 32))          # halves fall between two codes
    rows.append(np.arange(32) - 16.0)            # largest magnitude negative
    rows.append(16.0 - np.arange(32))            # largest magnitude positive
    rows.append(np.where(np.arange(32) % 2, 0.5, -0.5))  # both signs have the largest magnitude
    rows.append(np.eye(1, 32, 5)[0] * -3.25)
    return np.array(rows, dtype=np.float32)


values = blocks()
result = {"gguf": importlib.metadata.version("gguf"), "values": [row.tobytes().hex() for row in values]}
for name in ("Q4_0", "Q8_0"):
    packed = gguf.quants.quantize(values, getattr(gguf.GGMLQuantizationType, name))
    result[name] = [bytes(row).hex() for row in packed]
json.dump(result, sys.stdout, indent=1)
sys.stdout.write("\n")

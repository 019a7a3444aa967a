#!/usr/bin/env python3
"""Writes tests/golden/mix_types.json: the type that llama-quantize gives each tensor of a model of 32 layers whose
query heads share keys by four, for each mix.

Made with llama-cpp-python 0.3.36 and gguf 0.19.0 (bench/peers/install.sh):
    python tests/oracles/make_mix_types.py > tests/golden/mix_types.json
"""
import ctypes
import importlib.metadata
import json
import pathlib
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, VOCABULARY = 32, 256, 256, 8, 2, 264
# LLAMA_FTYPE of llama.cpp.
MIXES = {"q2_k": 10, "q2_k_s": 21, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16,
         "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30}
# Where llama-quantize makes no file without an importance matrix.
NEEDS_IMPORTANCE = {"q2_k_s"}


def shapes():
    kv = HIDDEN * KV_HEADS // HEADS
    yield "token_embd.weight", (VOCABULARY, HIDDEN)
    yield "output.weight", (VOCABULARY, HIDDEN)
    yield "output_norm.weight", (HIDDEN,)
    for i in range(LAYERS):
        for name, shape in {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN),
                            "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
                            "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN)}.items():
            yield f"blk.{i}.{name}.weight", shape


def write_model(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    random = np.random.default_rng(1)
    for name, shape in shapes():
        values = random.normal(scale=0.05, size=shape).astype(np.float32)
        writer.add_tensor(name, values if len(shape) == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def importance():
    """All columns alike."""
    names = [(name, shape[1]) for name, shape in shapes() if len(shape) == 2]
    entries = (llama_cpp.llama_model_imatrix_data * (len(names) + 1))()
    keep = [np.ones(width, np.float32) for _, width in names]
    for entry, (name, width), values in zip(entries, names, keep):
        entry.name, entry.size = name.encode(), width
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries, keep


def types_of(source, output, mix):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = MIXES[mix], 1
    if mix in NEEDS_IMPORTANCE:
        entries, keep = importance()
        parameters.imatrix = entries
    if llama_cpp.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama.cpp makes no {mix}")
    return {tensor.name: tensor.tensor_type.name.lower() for tensor in gguf.GGUFReader(output).tensors
            if len(tensor.shape) == 2}


def by_kind(types):
    """Of each kind of tensor the types by layer, one where all are alike."""
    kinds = {}
    for name, kind in types.items():
        parts = name.split(".")
        layer = int(parts[1]) if parts[0] == "blk" else 0
        kinds.setdefault(parts[-2], {})[layer] = kind
    lists = {name: [layers[i] for i in sorted(layers)] for name, layers in sorted(kinds.items())}
    return {name: " ".join(kinds if len(set(kinds)) > 1 else kinds[:1]) for name, kinds in lists.items()}


QUIET = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(QUIET, ctypes.c_void_p(0))
with tempfile.TemporaryDirectory() as directory:
    source = pathlib.Path(directory) / "model.gguf"
    write_model(source)
    result = {"versions": {name: importlib.metadata.version(name) for name in ("llama-cpp-python", "gguf")},
              "model": {"layers": LAYERS, "hidden_size": HIDDEN, "ffn_size": FFN, "heads": HEADS, "kv_heads": KV_HEADS},
              "types": {}}
    for mix in MIXES:
        result["types"][mix] = by_kind(types_of(source, pathlib.Path(directory) / f"{mix}.gguf", mix))
json.dump(result, sys.stdout, indent=1)
sys.stdout.write("\n")

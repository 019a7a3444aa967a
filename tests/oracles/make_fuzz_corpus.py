"""Writes the seeds of the fuzz targets for safetensors, GGUF and quantized weights, as the peers' own writers make the files, and damaged
copies of them. Run: python make_fuzz_corpus.py (made with safetensors 0.8.0, gguf 0.19.0, numpy 2.4)"""
import json
import pathlib
import shutil
import struct
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from safetensors.numpy import save_file

corpus = pathlib.Path(__file__).parent.parent / "fuzz" / "corpus"


def fresh(name):
    folder = corpus / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def damaged(folder, name, good, edits):
    (folder / name).write_bytes(good)
    for label, edit in edits.items():
        (folder / f"{label}-{name}").write_bytes(edit(good))


def write_safetensors():
    folder = fresh("safetensors")
    with tempfile.TemporaryDirectory() as work:
        path = pathlib.Path(work) / "x"
        save_file({"a.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.ones((4,), np.float32),
                   "c": np.zeros((0, 2), np.int64), "d": np.array(3, np.uint8)}, path, metadata={"format": "pt"})
        good = path.read_bytes()
    swap = lambda a, b: lambda data: data.replace(a, b)
    damaged(folder, "small.safetensors", good, {
        "cut": lambda data: data[:-3],
        "cut-header": lambda data: data[:40],
        "length": lambda data: (2 ** 63).to_bytes(8, "little") + data[8:],
        "type": swap(b"F16", b"F8E"),
        "shape": swap(b"[2,3]", b"[9,3]"),
        "negative": swap(b"[2,3]", b"[-2,3"),
        "overlap": swap(b"[0,16]", b"[4,20]"),
        "twice": swap(b'"b"', b'"d"'),
    })
    deep = b"{" + b'"a":{' * 500
    (folder / "deep.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)


def write_gguf():
    folder = fresh("gguf")
    with tempfile.TemporaryDirectory() as work:
        path = pathlib.Path(work) / "x"
        w = GGUFWriter(path, "llama")
        w.add_context_length(16)
        w.add_embedding_length(32)
        w.add_block_count(1)
        w.add_feed_forward_length(32)
        w.add_head_count(2)
        w.add_layer_norm_rms_eps(1e-5)
        w.add_tokenizer_model("gpt2")
        w.add_token_list(["a", "b", "<s>"])
        w.add_token_types([1, 1, 3])
        w.add_token_merges(["a b"])
        w.add_key_value("x.i8", -3, GGUFValueType.INT8)
        w.add_key_value("x.u64", 2 ** 40, GGUFValueType.UINT64)
        w.add_key_value("x.f64", 0.5, GGUFValueType.FLOAT64)
        w.add_key_value("x.flag", True, GGUFValueType.BOOL)
        w.add_array("x.floats", [0.5, 1.5])
        w.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
        w.add_tensor("blk.0.attn_q.weight", np.zeros((2, 18), np.uint8), raw_dtype=GGMLQuantizationType.Q4_0)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        good = path.read_bytes()
    swap = lambda a, b: lambda data: data.replace(a, b)
    damaged(folder, "small.gguf", good, {
        "cut": lambda data: data[:-60],
        "cut-header": lambda data: data[:200],
        "version": lambda data: data[:4] + b"\x09" + data[5:],
        "big-endian": lambda data: data[:4] + b"\0\0\0\x03" + data[8:],
        "tensors": lambda data: data[:8] + b"\xff" * 8 + data[16:],
        "entries": lambda data: data[:16] + b"\xff" * 8 + data[24:],
        "twice": swap(b"x.f64", b"x.u64"),
        "arch": swap(b"llama", b"mamba"),
    })
    with tempfile.TemporaryDirectory() as work:
        path = pathlib.Path(work) / "x"
        w = GGUFWriter(path, "llama")
        pieces = ["a", "b", "\u2581", "\u2581a", "ab", "\u2581ab", "\u2581\u2581", "\u2581\u2581\u2581"]
        w.add_tokenizer_model("llama")
        w.add_token_list(["<unk>", "<s>", "<x>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])
        w.add_token_scores([0.0] * 259 + [-5.0, -6.0, -7.0, -1.0, -2.0, -3.0, -1e9, -1e9])
        w.add_token_types([2, 3, 4] + [6] * 256 + [1] * len(pieces))
        w.add_bos_token_id(1)
        w.add_unk_token_id(0)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.close()
        good = path.read_bytes()
    score = lambda value: np.float32(value).tobytes()
    damaged(folder, "pieces.gguf", good, {
        "tie": swap(score(-2), score(-1)),
        "nan": swap(score(-2), score("nan")),
        "text": swap(b"\1\0\0\0\0\0\0\0b", b"\1\0\0\0\0\0\0\0\xff"),
        "same": swap(b"\1\0\0\0\0\0\0\0b", b"\1\0\0\0\0\0\0\0a"),
        "other": swap(b"\1\0\0\0\0\0\0\0b", b"\1\0\0\0\0\0\0\0c"),
    })


def write_stored_weights():
    """The form of tests/fuzz/stored_weights_fuzz.cc: a weight of 64 rows and 96 columns."""
    folder = fresh("stored_weights")
    random = np.random.default_rng(1)
    rows, cols, groups = 64, 96, 3
    types = {"int32": 0, "float16": 1, "uint16": 2, "float32": 3, "int64": 4, "uint8": 5, "int8": 6}
    words = lambda *shape: random.integers(-2 ** 31, 2 ** 31, shape, np.int64).astype(np.int32)
    scales = lambda *shape: (random.random(shape) / 64).astype(np.float16)
    order = (np.arange(cols) % groups).astype(np.int32)

    def write(name, settings, *parts):
        data = json.dumps(settings).encode() + b"\0"
        for part in parts:
            if part is None:
                data += b"\0"
                continue
            # Control bytes are never 0: bit 5 does not count.
            data += bytes([32 | types[part.dtype.name] | part.ndim << 3])
            data += struct.pack(f"<{part.ndim}H", *part.shape) + part.tobytes()
        damaged(folder, name, data, {"cut": lambda d: d[:-1000], "type": lambda d: d.replace(b"\0\x30", b"\0\x33")})

    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "checkpoint_format": "gptq_v2"}
    write("gptq", gptq, words(12, rows), words(groups, 8), scales(groups, rows), order)
    write("gptq-v1", {**gptq, "checkpoint_format": "gptq", "sym": True, "desc_act": False},
          words(12, rows), np.full((groups, 8), 0x77777777, np.int32), scales(groups, rows), None)
    write("gptq-3bit", {**gptq, "bits": 8, "dynamic": {"+:x": {"bits": 3}}}, words(9, rows), words(groups, 6),
          scales(groups, rows), order)
    write("awq", {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 32}, words(cols, 8),
          words(groups, 8), scales(groups, rows).astype(np.float32))
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    packed = {"quant_method": "compressed-tensors", "format": "pack-quantized",
              "config_groups": {"group_0": {"weights": weights}}}
    shape = np.array([rows, cols], np.int64)
    write("compressed", packed, words(rows, 12), scales(rows, groups), words(8, groups), None, shape)
    write("compressed-order", packed, words(rows, 12), scales(rows, groups), None, order, shape)
    native = {"quant_method": "retort", "version": 1,
              "tensors": {"model.layers.0.mlp.up_proj.weight": "int4-g32-asym"}}
    write("native", native, random.integers(0, 256, (rows, 48), np.uint8), scales(rows, groups),
          random.integers(0, 16, (rows, groups), np.uint8), order, None)
    native["tensors"] = {"model.layers.0.mlp.up_proj.weight": "q4_0"}
    write("native-blocks", native, None, None, None, None, random.integers(0, 64, (rows, 54), np.uint8))
    # Columns 4 and 41 in 16 bits: their codes are the zero points of their groups.
    zeros = random.integers(0, 16, (rows, groups), np.uint8)
    codes = random.integers(0, 16, (rows, cols), np.uint8)
    codes[:, 4], codes[:, 41] = zeros[:, 0], zeros[:, 1]
    kept = {**native, "version": 2, "tensors": {"model.layers.0.mlp.up_proj.weight": "int4-g32-asym"}}
    for name, columns in (("native-outliers", [4, 41]), ("native-outliers-order", [41, 4]),
                          ("native-outliers-outside", [4, 96])):
        write(name, kept, codes[:, ::2] | codes[:, 1::2] << 4, scales(rows, groups), zeros, None, None,
              scales(rows, 2), np.array(columns, np.int32))


def write_imatrix():
    folder = fresh("imatrix")
    with tempfile.TemporaryDirectory() as work:
        path = pathlib.Path(work) / "x"
        w = GGUFWriter(path, "llama")
        w.kv_data[0].clear()
        w.add_key_value("general.type", "imatrix", GGUFValueType.STRING)
        w.add_array("imatrix.datasets", ["a.txt"])
        w.add_uint32("imatrix.chunk_count", 2)
        w.add_uint32("imatrix.chunk_size", 4)
        w.add_tensor("blk.0.attn_q.weight.in_sum2", np.array([8, 16, 0], np.float32))
        w.add_tensor("blk.0.attn_q.weight.counts", np.array([8], np.float32))
        w.add_tensor("blk.0.ffn_down_exps.weight.in_sum2", np.ones((2, 3), np.float32))
        w.add_tensor("blk.0.ffn_down_exps.weight.counts", np.ones((2, 1), np.float32))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        good = path.read_bytes()
    swap = lambda a, b: lambda data: data.replace(a, b)
    damaged(folder, "small.gguf", good, {
        "cut": lambda data: data[:-60],
        "model": swap(b"imatrix\x10", b"model--\x10"),
        "other": swap(b"attn_q.weight.counts", b"attn_k.weight.counts"),
        "nan": swap(np.float32(16).tobytes(), np.float32("nan").tobytes()),
        "negative": swap(np.float32(16).tobytes(), np.float32(-16).tobytes()),
        "idle": lambda data: data[:-64] + bytes(64),
    })
    # The form before GGUF, written as llama.cpp's tools did: name, calls, columns, means of squares times calls.
    i32 = lambda *values: np.array(values, np.int32).tobytes()
    name, values = b"blk.0.attn_q.weight", np.array([4, 8, 0], np.float32).tobytes()
    head = i32(1, len(name)) + name
    damaged(folder, "small.dat", head + i32(4, 3) + values + i32(2, 5) + b"a.txt", {
        "cut": lambda data: data[:-3],
        "bare": lambda data: data[:-13],
        "entries": lambda data: i32(2 ** 31 - 1) + data[4:],
        "negative": lambda data: head + i32(4, -3) + values,
        "huge": lambda data: head + i32(4, 2 ** 31 - 1) + values,
        "idle": lambda data: head + i32(0, 3) + values,
    })


write_safetensors()
write_stored_weights()
write_gguf()
write_imatrix()

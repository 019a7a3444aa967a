"""Writes the seeds of tests/fuzz/onnx_graph_fuzz.cc: graphs that Retort exports of a model of one layer, and changed
copies of one. Run: python make_onnx_graph_corpus.py PATH_OF_RETORT"""
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

corpus = pathlib.Path(__file__).parent.parent / "fuzz" / "corpus" / "onnx_graph"

# As in the fuzz target.
CONFIG = {"model_type": "llama", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 16,
          "rms_norm_eps": 1e-6, "hidden_act": "silu", "architectures": ["LlamaForCausalLM"]}


def write_model(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": [32, 32], "lm_head.weight": [32, 32], "model.norm.weight": [32],
              layer + "input_layernorm.weight": [32], layer + "post_attention_layernorm.weight": [32]}
    for name, rows in [("self_attn.q", 32), ("self_attn.k", 16), ("self_attn.v", 16), ("self_attn.o", 32),
                       ("mlp.gate", 32), ("mlp.up", 32), ("mlp.down", 32)]:
        shapes[f"{layer}{name}_proj.weight"] = [rows, 32]
    random.seed(1)
    header, data = {}, b""
    for name, shape in shapes.items():
        values = [random.gauss(0, 0.2) + (len(shape) == 1) for _ in range(shape[0] * (shape[1:] or [1])[0])]
        packed = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def joined(graph, data):
    return len(graph).to_bytes(4, "little") + graph + data


# Of the same length, so that the messages around it stay whole.
EDITS = {
    "operator": (b"\x07Sigmoid", b"\x07Softmax"),
    "quotient": (b'"\x03Mul', b'"\x03Div'),
    "input": (b"position_ids", b"attention_m_"),
}


def main():
    retort = pathlib.Path(sys.argv[1]).resolve()
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        write_model(work / "dense")
        run = lambda *arguments: subprocess.run([retort, *arguments, "--quiet"], check=True)
        run("quantize", work / "dense", "--scheme", "int4-g32-asym", "--output", work / "int4")
        for operators in ("contrib", "standard"):
            out = work / operators
            run("export", work / "int4", "--format", "onnx", "--operators", operators, "--output", out)
            graph, data = ((out / file).read_bytes() for file in ("model.onnx", "model.onnx.data"))
            (corpus / operators).write_bytes(joined(graph, data))
        for label, (old, new) in EDITS.items():
            assert old in graph
            (corpus / f"{label}-{operators}").write_bytes(joined(graph.replace(old, new), data))


if __name__ == "__main__":
    main()

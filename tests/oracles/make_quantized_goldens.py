#!/usr/bin/env python3
"""Reads the quantized checkpoints of other programs (../shared/data/quantized) by their layouts' definitions, with
numpy, and writes what Retort must find in them: checksums of the codes, scales, zero points and groups of every
weight, and logits that transformers computes in float32 with the dequantized weights.

    OMP_NUM_THREADS=1 python tests/oracles/make_quantized_goldens.py ../shared/data/quantized

writes tests/golden/quantized/NAME.json. The versions used stand in each of them."""
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parents[2]
IDS = [1, 57, 1203, 884, 3021, 9, 412, 77, 2500, 31, 640, 1999]


def values(words, bits, axis):
    """The values in 32-bit words along `axis`, low bits first."""
    octets = np.ascontiguousarray(np.moveaxis(words, axis, -1)).view(np.uint8)
    stream = np.unpackbits(octets, axis=-1, bitorder="little")
    found = stream.reshape(*stream.shape[:-1], -1, bits) @ (1 << np.arange(bits))
    return np.moveaxis(found.astype(np.int64), -1, axis)


def gptq(part, config, cols):
    """codes [out, in], scales and zeros [out, groups], group of each column."""
    bits = config["bits"]
    zeros = values(part("qzeros"), bits, 1)
    if config.get("checkpoint_format", "gptq") == "gptq":
        zeros = zeros + 1
    return values(part("qweight"), bits, 0).T, part("scales").T, zeros.T, part("g_idx")


def awq(part, config, cols):
    order = [0, 4, 1, 5, 2, 6, 3, 7]  # where in the word the columns 0, 1, 2, ... lie

    def unpack(words):
        nibbles = np.stack([words.view(np.uint32) >> (4 * place) & 15 for place in order], axis=-1)
        return nibbles.reshape(words.shape[0], -1).astype(np.int64)

    groups = np.arange(cols) // config["group_size"]
    return unpack(part("qweight")).T, part("scales").T, unpack(part("qzeros")).T, groups


def compressed_tensors(part, config, cols):
    settings = config["config_groups"]["group_0"]["weights"]
    bits, size = settings["num_bits"], settings["group_size"]
    rows, checked = part("weight_shape")
    assert checked == cols
    scales = part("weight_scale")
    signed = values(part("weight_packed"), bits, 1)[:, :cols] - 2 ** (bits - 1)
    zero_points = np.zeros(scales.shape, np.int64)
    if not settings["symmetric"]:
        zero_points = values(part("weight_zero_point"), bits, 0)[:rows] - 2 ** (bits - 1)
    return signed + 2 ** (bits - 1), scales, zero_points + 2 ** (bits - 1), np.arange(cols) // size


READERS = {"gptq": (gptq, "qweight"), "awq": (awq, "qweight"), "compressed-tensors": (compressed_tensors, "weight_packed")}


def checksum(array, dtype):
    """Depends on every value and its place; wraps at 2^64."""
    numbers = np.ascontiguousarray(array).astype(dtype).reshape(-1).view(f"u{np.dtype(dtype).itemsize}").astype(np.uint64)
    weights = np.arange(1, len(numbers) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    weights ^= weights >> np.uint64(29)
    return f"{int(np.sum((numbers + np.uint64(1)) * weights, dtype=np.uint64)):016x}"


def read(directory):
    """The state of the float model, and the checksums of every weight."""
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    reader, codes_name = READERS[config["quant_method"]]
    state, weights = {}, {}
    with safe_open(directory / "model.safetensors", "pt") as file:
        names = set(file.keys())

        def numpy_of(name):
            tensor = file.get_tensor(name)
            return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()

        for name in sorted(names):
            module, _, part = name.rpartition(".")
            if part == "weight":
                state[name] = torch.tensor(numpy_of(name))
            if part != codes_name:
                continue
            cols = 768 if module.endswith("down_proj") else 256
            codes, scales, zeros, groups = reader(lambda p: numpy_of(f"{module}.{p}"), config, cols)
            dense = scales[:, groups] * (codes - zeros[:, groups]).astype(np.float32)
            state[module + ".weight"] = torch.tensor(dense)
            weights[module + ".weight"] = {"codes": checksum(codes, np.uint8), "scales": checksum(scales, np.float32),
                                           "zeros": checksum(zeros, np.uint8), "groups": checksum(groups, np.int32)}
    return state, weights


def logits(directory, state):
    config = transformers.AutoConfig.from_pretrained(directory)
    del config.quantization_config
    config.dtype = torch.float32
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


def main():
    target = ROOT / "tests/golden/quantized"
    target.mkdir(parents=True, exist_ok=True)
    for config in sorted(pathlib.Path(sys.argv[1]).glob("*/config.json")):
        state, weights = read(config.parent)
        found = logits(config.parent, state)
        golden = {"numpy": np.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
                  "weights": weights, "ids": IDS, "every": 64, "largest": float(np.abs(found).max()),
                  "logits": [[float(f"{x:.7g}") for x in row[::64]] for row in found]}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items() if key != "weights"]
        lines.append('"weights": {\n' + ",\n".join(f"{json.dumps(n)}: {json.dumps(w)}" for n, w in weights.items()) + "}")
        (target / f"{config.parent.name}.json").write_text("{" + ",\n".join(lines) + "}\n")
        print(config.parent.name, len(weights), found.shape)


if __name__ == "__main__":
    main()

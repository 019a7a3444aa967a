"""The words of a GPTQ checkpoint, read by a decoder that was written from the layout alone, hold the model's numbers."""
import json
import unittest

import numpy as np
from safetensors import safe_open

import common
from common import retort


def unpack(words, bits, axis):
    """Values of `bits` bits along `axis`, low bits first; 3-bit values straddle words."""
    bytes_ = np.ascontiguousarray(np.moveaxis(words, axis, -1)).view(np.uint8)
    stream = np.unpackbits(bytes_, axis=-1, bitorder="little")
    values = stream.reshape(*stream.shape[:-1], -1, bits) @ (1 << np.arange(bits))
    return np.moveaxis(values.astype(np.int64), -1, axis)


def load(directory, *suffixes):
    """The tensors of model.safetensors whose names end so."""
    with safe_open(directory / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.endswith(suffixes)}


def dequantized(tensors, module, config):
    """[out, in], float32."""
    codes = unpack(tensors[module + ".qweight"], config["bits"], 0)
    zeros = unpack(tensors[module + ".qzeros"], config["bits"], 1)
    if config["checkpoint_format"] == "gptq":
        zeros += 1  # version 1 stores zero - 1
    groups = tensors[module + ".g_idx"]
    scales = tensors[module + ".scales"].astype(np.float32)
    return ((codes - zeros[groups]).astype(np.float32) * scales[groups]).T


class Gptq(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def test_every_number(self):
        for scheme, version in {"int4-g128-sym": "gptq", "int4-g32-asym": "gptq_v2", "int4-channel-sym": "gptq",
                                "int8-g64-sym": "gptq", "int3-g32-asym": "gptq_v2", "int2-g32-sym": "gptq"}.items():
            with self.subTest(scheme=scheme):
                model = common.quantized(common.TEACHER, self.dir / scheme, scheme)
                directory = common.exported(model, self.dir / f"{scheme}-gptq", "--format", "gptq")
                dense = load(common.exported(model, self.dir / f"{scheme}-hf", "--format", "hf", "--type", "f32"), "weight")
                config = self.check_config(directory, scheme, version)
                tensors = load(directory, "qweight", "qzeros", "scales", "g_idx")
                modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
                self.assertEqual(len(modules), 6 * 7)
                for module in modules:
                    np.testing.assert_array_equal(dequantized(tensors, module, config), dense[module + ".weight"])

    def check_config(self, directory, scheme, version):
        config = json.loads((directory / "config.json").read_text())["quantization_config"]
        self.assertEqual(config, json.loads((directory / "quantize_config.json").read_text()))
        group = scheme.split("-")[1]
        expected = {"quant_method": "gptq", "bits": int(scheme[3]), "sym": scheme.endswith("-sym"), "desc_act": False,
                    "group_size": -1 if group == "channel" else int(group[1:]), "checkpoint_format": version}
        self.assertEqual({key: config[key] for key in expected}, expected)
        return config

    def test_what_it_cannot_hold(self):
        model = common.quantized(common.TEACHER, self.dir / "blocks", "q4_0")
        refusal = retort("export", model, "--output", self.dir / "no", "--format", "gptq", code=1)
        self.assertIn("model.embed_tokens.weight", refusal)
        self.assertIn("--format gguf", refusal)


if __name__ == "__main__":
    unittest.main()

"""The words of an AWQ checkpoint, read by a decoder that was written from the layout alone, hold the model's numbers."""
import json
import unittest

import numpy as np
from safetensors import safe_open

import common

PARTS = ("qweight", "qzeros", "scales")
PLACE = [0, 4, 1, 5, 2, 6, 3, 7]  # where in a word the nibble of output 8w + i lies


def unpack(words):
    """[lines, outputs / 8] words to [lines, outputs] nibbles."""
    shifts = 4 * np.array(PLACE, np.uint32)
    return ((words.view(np.uint32)[..., None] >> shifts) & 15).reshape(len(words), -1).astype(np.int64)


def load(directory, *suffixes):
    """The tensors of model.safetensors whose names end so."""
    with safe_open(directory / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.endswith(suffixes)}


def dequantized(tensors, module):
    """[out, in], float32."""
    codes, zeros = unpack(tensors[module + ".qweight"]), unpack(tensors[module + ".qzeros"])
    scales = tensors[module + ".scales"].astype(np.float32)
    group = len(codes) // len(scales)
    return ((codes - zeros.repeat(group, 0)).astype(np.float32) * scales.repeat(group, 0)).T


class Awq(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def test_the_decoder(self):
        word = np.array([[0x75316420]], np.uint32).view(np.int32)
        self.assertEqual(unpack(word).tolist(), [[0, 1, 2, 3, 4, 5, 6, 7]])

    def test_every_number(self):
        for scheme, group in {"int4-g128-sym": 128, "int4-g32-asym": 32, "int4-channel-sym": -1, "int3-g64-sym": 64,
                              "int2-g32-asym": 32}.items():
            with self.subTest(scheme=scheme):
                model = common.quantized(common.TEACHER, self.dir / scheme, scheme)
                directory = common.exported(model, self.dir / f"{scheme}-awq", "--format", "awq")
                dense = load(common.exported(model, self.dir / f"{scheme}-hf", "--format", "hf", "--type", "f32"), "weight")
                config = json.loads((directory / "config.json").read_text())["quantization_config"]
                self.assertEqual(config, json.loads((directory / "quantize_config.json").read_text()))
                expected = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": group, "zero_point": True}
                self.assertEqual({key: config[key] for key in expected}, expected)
                tensors = load(directory, *PARTS)
                modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
                self.assertEqual(len(modules), 6 * 7)
                for module in modules:
                    self.assertEqual(tensors[module + ".scales"].dtype, np.float16)
                    np.testing.assert_array_equal(dequantized(tensors, module), dense[module + ".weight"])

    def test_the_integers_of_gptq(self):
        """One symmetric solve: the same codes and scales in both files."""
        from test_gptq import unpack as unpack_gptq
        model = common.quantized(common.TEACHER, self.dir / "same", "int4-g128-sym")
        awq = load(common.exported(model, self.dir / "same-awq", "--format", "awq"), *PARTS)
        gptq = load(common.exported(model, self.dir / "same-gptq", "--format", "gptq"), *PARTS)
        for name, words in awq.items():
            if name.endswith(".scales"):
                np.testing.assert_array_equal(words.view(np.uint16), gptq[name].view(np.uint16))
            if name.endswith(".qweight"):
                np.testing.assert_array_equal(unpack(words), unpack_gptq(gptq[name], 4, 0))

    def test_what_it_cannot_hold(self):
        for scheme, reason, nearest in (("int8-g64-sym", "8 bits", "--format gguf"), ("q4_0", "embed_tokens", "--format gguf")):
            model = common.quantized(common.TEACHER, self.dir / f"no-{scheme}", scheme)
            refusal = common.retort("export", model, "--output", self.dir / "no", "--format", "awq", code=1)
            self.assertIn(reason, refusal)
            self.assertIn(nearest, refusal)
            self.assertFalse((self.dir / "no").exists())


if __name__ == "__main__":
    unittest.main()

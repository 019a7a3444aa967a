"""transformers with compressed-tensors loads what `retort export --format compressed-tensors` writes, and computes the
model's own logits; a decoder that was written from the layout alone finds the model's numbers in the words."""
import json
import unittest

import numpy as np
import torch
import transformers
from safetensors import safe_open

import common
from common import retort

TOLERANCE = 1e-5  # of the largest logit
# transformers 5.23 with compressed-tensors 0.19 loads no packed zero points but with dequantize=True, neither ours nor
# llm-compressor's own. That way rounds every weight to the type of the scales.
ROUNDED = 1e-3
IN_BFLOAT16 = 3e-2  # a model whose activations are rounded to bfloat16


def tensors_of(directory):
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def unpack(words, bits, axis, count):
    """`count` values of `bits` bits along `axis`, low bits first."""
    octets = np.ascontiguousarray(np.moveaxis(words, axis, -1)).view(np.uint8)
    stream = np.unpackbits(octets, axis=-1, bitorder="little")[..., :count * bits]
    values = stream.reshape(*stream.shape[:-1], count, bits) @ (1 << np.arange(bits))
    return np.moveaxis(values.astype(np.int64), -1, axis) - 2 ** (bits - 1)


def dequantized(tensors, module, weights):
    """[out, in], float32."""
    part = lambda name: tensors[f"{module}.weight_{name}"]
    rows, cols = part("shape").tolist()
    scales = part("scale").float().numpy()
    groups = np.arange(cols) // (weights["group_size"] or cols)
    levels = unpack(part("packed").numpy(), weights["num_bits"], 1, cols)
    if not weights["symmetric"]:
        levels = levels - unpack(part("zero_point").numpy(), weights["num_bits"], 0, rows)[:, groups]
    return levels.astype(np.float32) * scales[:, groups]


def settings_of(config, module):
    for group in config["config_groups"].values():
        if "Linear" in group["targets"] or module in group["targets"]:
            return group["weights"]
    raise AssertionError(module)


class CompressedTensors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def check_numbers(self, model, directory):
        dense = tensors_of(common.exported(model, directory.with_name(directory.name + "-hf"), "--format", "hf",
                                           "--type", "f32"))
        config = json.loads((directory / "config.json").read_text())["quantization_config"]
        tensors = tensors_of(directory)
        modules = [name.removesuffix(".weight_packed") for name in tensors if name.endswith(".weight_packed")]
        for module in modules:
            np.testing.assert_array_equal(dequantized(tensors, module, settings_of(config, module)),
                                          dense[module + ".weight"].numpy())
        return len(modules)

    def check_logits(self, model, directory, zero_points=False, dtype=None):
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.assertEqual(tokenizer(common.HARD_TEXT)["input_ids"], common.tokenize(model, common.HARD_TEXT))
        ids = tokenizer(common.PROMPT)["input_ids"]
        # Where we wrote config.json without a dtype of ours: the one there must keep every number.
        options = {"dtype": dtype} if dtype else {}
        options |= {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)} if zero_points else {}
        loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, **options)
        with torch.no_grad():
            theirs = loaded(torch.tensor([ids])).logits[0].float().numpy()
        ours = common.logits(model, ids)
        self.assertLess(np.abs(theirs - ours).max(), (ROUNDED if zero_points else TOLERANCE) * np.abs(ours).max())
        return loaded, ids

    def test_every_scheme(self):
        for scheme in ("int4-g128-sym", "int4-g32-asym", "int4-channel-asym", "int8-channel-sym", "int8-g64-asym",
                       "int3-g64-sym", "int2-g32-asym"):
            with self.subTest(scheme=scheme):
                model = common.quantized(common.TEACHER, self.dir / scheme, scheme)
                directory = common.exported(model, self.dir / f"{scheme}-ct", "--format", "compressed-tensors")
                self.assertEqual(self.check_numbers(model, directory), 6 * 7)
                loaded, _ = self.check_logits(model, directory, scheme.endswith("-asym"))
                self.assertEqual(loaded.dtype, torch.float32)

    def test_generates_the_same_text(self):
        for scheme in ("int4-g128-sym", "int4-g32-asym"):
            with self.subTest(scheme=scheme):
                model = common.quantized(common.TEACHER, self.dir / f"{scheme}-text", scheme)
                directory = common.exported(model, self.dir / f"{scheme}-text-ct", "--format", "compressed-tensors")
                loaded, ids = self.check_logits(model, directory, scheme.endswith("-asym"))
                new = loaded.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0].tolist()
                for _ in range(24):
                    ids = ids + [int(common.logits(model, ids)[-1].argmax())]
                self.assertEqual(new, ids[:len(new)])
                self.assertGreater(len(new), 12)

    def test_portable_scales_are_those_of_a_bfloat16_model(self):
        """Nothing is lost in the type that loaders cast scales to: the directory says bfloat16 and has our numbers."""
        model = common.quantized(common.TEACHER, self.dir / "portable", "int4-g128-sym", "--scale-type", "portable")
        directory = common.exported(model, self.dir / "portable-ct", "--format", "compressed-tensors")
        tensors = tensors_of(directory)
        self.assertEqual({values.dtype for name, values in tensors.items() if name.endswith("_scale")}, {torch.bfloat16})
        config = json.loads((directory / "config.json").read_text())
        self.assertEqual((config["dtype"], config["retort"]["scale_type"]), ("bfloat16", "portable"))
        self.assertEqual(self.check_numbers(model, directory), 6 * 7)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(directory)
        self.assertEqual(loaded.dtype, torch.bfloat16)
        ids = common.tokenize(model, common.PROMPT)
        with torch.no_grad():
            theirs = loaded(torch.tensor([ids])).logits[0].float().numpy()
        ours = common.logits(model, ids)
        self.assertLess(np.abs(theirs - ours).max(), IN_BFLOAT16 * np.abs(ours).max())

    def test_schemes_that_differ_are_groups_of_modules(self):
        model = self.dir / "mixed"
        retort("quantize", common.TEACHER, "--output", model, "--scheme", "int4-g128-sym", "--method", "rtn",
               "--keep", "*.down_proj.weight=int8-channel-sym", "--keep", "*.1.self_attn.o_proj.weight=bf16")
        directory = common.exported(model, self.dir / "mixed-ct", "--format", "compressed-tensors")
        config = json.loads((directory / "config.json").read_text())["quantization_config"]
        self.assertEqual({group["weights"]["num_bits"]: len(group["targets"]) for group in config["config_groups"].values()},
                         {4: 6 * 6 - 1, 8: 6})
        self.assertIn("model.layers.1.self_attn.o_proj", config["ignore"])
        self.check_numbers(model, directory)
        self.check_logits(model, directory)

    def test_shards(self):
        model = common.quantized(common.TEACHER, self.dir / "whole", "int4-g64-sym")
        options = ("--format", "compressed-tensors", "--max-shard-size", "1MiB")
        directory = common.exported(model, self.dir / "shards", *options)
        self.assertGreater(len(list(directory.glob("model-*.safetensors"))), 2)
        self.check_logits(model, directory)

    @unittest.skipUnless((common.DATA / "quantized").exists(), "the data set is not beside the checkout")
    def test_what_llm_compressor_made(self):
        """It gives the same logits there and here, and so does what we export of it."""
        for name in ("llmcompressor-gptq", "llmcompressor-awq"):
            with self.subTest(sample=name):
                sample = common.DATA / "quantized" / name
                again = common.exported(sample, self.dir / name, "--format", "compressed-tensors")
                orders = [json.loads((directory / "config.json").read_text())["quantization_config"]["config_groups"]
                          ["group_0"]["weights"]["actorder"] for directory in (sample, again)]
                self.assertEqual(orders, ["static" if name.endswith("gptq") else None] * 2)
                for directory in (sample, again):
                    self.check_logits(sample, directory, name.endswith("awq"), torch.float32)

    def test_our_own_reading_of_it(self):
        """The artifact is a model like any other, and gives the artifact again."""
        model = common.quantized(common.TEACHER, self.dir / "again", "int4-g64-asym")
        first = common.exported(model, self.dir / "first", "--format", "compressed-tensors")
        second = common.exported(first, self.dir / "second", "--format", "compressed-tensors")
        for name in ("model.safetensors", "config.json"):
            self.assertEqual((first / name).read_bytes(), (second / name).read_bytes(), name)


if __name__ == "__main__":
    unittest.main()

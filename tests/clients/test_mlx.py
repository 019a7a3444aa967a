"""mlx-lm, on a CPU, loads what `retort export --format mlx` and `--format awq` write and computes what we compute."""
import json
import unittest

import mlx.core as mx
import mlx.utils
import mlx_lm
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

import common

# Largest difference of a logit, in parts of the largest logit. As loaded, mlx-lm rounds activations to the types of the
# dense tensors here and there; with every scale and dense tensor widened to float32, which is exact, it does not.
TOLERANCE, AS_LOADED = 1e-5, 2e-2


def load(directory):
    model, tokenizer, config = mlx_lm.load(str(directory), return_config=True)
    return model, tokenizer, config


def logits(model, ids):
    return np.array(model(mx.array([ids])).astype(mx.float32))[0]


def cached_logits(model, ids, prefill):
    """`prefill` tokens at once, the rest one at a time behind a cache: [tokens - prefill, vocabulary]."""
    cache = make_prompt_cache(model)
    model(mx.array([ids[:prefill]]), cache=cache)
    return np.concatenate([np.array(model(mx.array([[token]]), cache=cache).astype(mx.float32))[0]
                           for token in ids[prefill:]])


def greedy(model, ids, count):
    cache, out, step = make_prompt_cache(model), [], list(ids)
    for _ in range(count):
        row = np.array(model(mx.array([step]), cache=cache).astype(mx.float32))[0, -1]
        step = [int(row.argmax())]
        out += step
    return out


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def close(self, actual, expected, tolerance=TOLERANCE):
        self.assertEqual(actual.shape, expected.shape)
        self.assertLess(np.abs(actual - expected).max(), tolerance * np.abs(expected).max())


class Teacher(Case):
    def check(self, directory, model):
        ids = common.tokenize(model, common.PROMPT)
        loaded, tokenizer, config = load(directory)
        self.assertEqual(tokenizer.encode(common.HARD_TEXT), common.tokenize(model, common.HARD_TEXT))
        expected = common.logits(model, ids)
        self.close(logits(loaded, ids), expected, AS_LOADED)
        loaded.set_dtype(mx.float32)
        self.close(logits(loaded, ids), expected)
        tokens = greedy(loaded, ids, 16)
        ours = common.logits(model, ids + tokens)[len(ids) - 1:-1].argmax(1)
        self.assertEqual(tokens, ours.tolist())
        return config

    def test_schemes(self):
        for scheme in ("int4-g128-sym", "int4-g32-asym", "int8-g64-sym", "int8-channel-asym", "int3-g64-asym",
                       "int2-g32-sym", "q4_0", "q8_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k"):
            with self.subTest(scheme=scheme):
                model = common.quantized(common.TEACHER, self.dir / scheme, scheme, *common.keep_tied_head(scheme))
                config = self.check(common.exported(model, self.dir / f"{scheme}.mlx", "--format", "mlx"), model)
                group = 32 if scheme[0] == "q" else 128 if "channel" in scheme else int(scheme.split("-")[1][1:])
                self.assertEqual(config["quantization"]["group_size"], group)
                self.assertEqual(config["quantization"]["bits"], int(scheme[3]) if scheme[0] == "i" else int(scheme[1]))

    def test_one_width_for_each_matrix(self):
        model = common.quantized(common.TEACHER, self.dir / "mixed", "int4-g64-sym", "--keep",
                                 "*.down_proj.weight=int8-g32-sym", "--keep", "*.1.self_attn.v_proj.weight=bf16")
        config = self.check(common.exported(model, self.dir / "mixed.mlx", "--format", "mlx"), model)
        self.assertEqual(config["quantization"]["model.layers.3.mlp.down_proj"], {"bits": 8, "group_size": 32})

    def test_shards(self):
        model = common.quantized(common.TEACHER, self.dir / "whole", "int4-g64-sym")
        directory = common.exported(model, self.dir / "shards", "--format", "mlx", "--max-shard-size", "1MiB")
        self.assertGreater(len(list(directory.glob("model-*.safetensors"))), 2)
        self.check(directory, model)

    def numbers_lost_in_bfloat16(self, name, scheme, *options):
        """Names of the scales and biases that a cast of the model changes."""
        model = common.quantized(common.TEACHER, self.dir / name, scheme, *options)
        loaded = load(common.exported(model, self.dir / f"{name}.mlx", "--format", "mlx"))[0]
        numbers = lambda: {path: np.array(values.astype(mx.float32)) for path, values
                           in mlx.utils.tree_flatten(loaded.parameters()) if path.endswith((".scales", ".biases"))}
        before = numbers()
        loaded.set_dtype(mx.bfloat16)
        self.assertEqual({values.dtype for path, values in mlx.utils.tree_flatten(loaded.parameters())
                          if path.endswith(".scales")}, {mx.bfloat16})
        self.assertEqual(len(before), 2 * 6 * 7)
        return {path.rsplit(".", 1)[1] for path, values in numbers().items() if (values != before[path]).any()}

    def test_portable_scales_survive_a_cast_to_bfloat16(self):
        portable = ("--scale-type", "portable")
        self.assertEqual(self.numbers_lost_in_bfloat16("portable", "int4-g128-sym", *portable), set())
        self.assertEqual(self.numbers_lost_in_bfloat16("portable-asym", "int4-g32-asym", *portable), {"biases"})
        self.assertEqual(self.numbers_lost_in_bfloat16("f16", "int4-g128-sym"), {"scales", "biases"})

    def test_awq(self):
        """mlx-lm computes AWQ checkpoints in the type of their scales."""
        for scheme in ("int4-g128-sym", "int4-g32-asym"):
            model = common.quantized(common.TEACHER, self.dir / f"{scheme}-awq", scheme)
            directory = common.exported(model, self.dir / f"{scheme}.awq", "--format", "awq")
            ids = common.tokenize(model, common.PROMPT)
            self.close(logits(load(directory)[0], ids), common.logits(model, ids), AS_LOADED)

    def test_what_it_cannot_hold(self):
        model = common.quantized(common.TEACHER, self.dir / "narrow", "int4-g16-sym")
        refusal = common.retort("export", model, "--output", self.dir / "no", "--format", "mlx", code=1)
        self.assertIn("groups of 32, 64 or 128", refusal)
        self.assertIn("--format onnx", refusal)
        self.assertFalse((self.dir / "no").exists())

    def test_a_damaged_file_is_found(self):
        model = common.quantized(common.TEACHER, self.dir / "damaged", "int4-g128-sym")
        directory = common.exported(model, self.dir / "damaged.mlx", "--format", "mlx")
        weights = directory / "model.safetensors"
        header = json.loads(weights.read_bytes()[8:8 + int.from_bytes(weights.read_bytes()[:8], "little")])
        begin = header["model.layers.2.mlp.gate_proj.weight"]["data_offsets"][0]
        common.flip_byte(weights, 8 + int.from_bytes(weights.read_bytes()[:8], "little") + begin + 9)
        proof = common.retort("verify", directory, "--against", model, code=3)
        self.assertGreater(proof["codes_different"], 0)
        self.assertGreater(proof["logits_max_difference"], 0)


if __name__ == "__main__":
    unittest.main()

"""ONNX Runtime runs what `retort export --format onnx` writes: prefill, cached steps and padded batches."""
import json
import unittest

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

import common
from common import retort

TOLERANCE = 1e-5  # of the largest logit: both sides compute in float32
INT8_ACTIVATIONS = 3e-2  # with --accuracy-level 4


class Decoder:
    def __init__(self, directory):
        onnx.checker.check_model(str(directory / "model.onnx"), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(directory / "model.onnx"), options)
        config = json.loads((directory / "config.json").read_text())
        heads = config["num_attention_heads"]
        self.layers = config["num_hidden_layers"]
        self.cache_shape = (config.get("num_key_value_heads", heads), 0, config.get("head_dim", config["hidden_size"] // heads))

    def empty_cache(self, batch=1):
        return {f"past_key_values.{layer}.{part}": np.zeros((batch, *self.cache_shape), np.float32)
                for layer in range(self.layers) for part in ("key", "value")}

    def step(self, ids, cache, mask=None, positions=None):
        """Logits of `ids` behind `cache`, and the cache that includes them."""
        ids = np.array(ids, np.int64)
        past = cache["past_key_values.0.key"].shape[2]
        if mask is None:
            mask = np.ones((len(ids), past + ids.shape[1]), np.int64)
            positions = np.arange(past, past + ids.shape[1])[None].repeat(len(ids), 0)
        outputs = self.session.run(None, {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **cache})
        names = [output.name.replace("present", "past_key_values") for output in self.session.get_outputs()]
        return outputs[0], dict(zip(names[1:], outputs[1:]))

    def steps(self, ids, prefill):
        """`prefill` tokens at once, the rest one at a time: [tokens, vocabulary]."""
        rows, cache = self.step([ids[:prefill]], self.empty_cache())
        rows = [rows[0]]
        for token in ids[prefill:]:
            row, cache = self.step([[token]], cache)
            rows.append(row[0])
        return np.concatenate(rows)

    def padded(self, ids, padding):
        """The logits of `ids` as the second of a batch, with `padding` tokens to its left that are masked out."""
        batch = np.zeros((2, padding + len(ids)), np.int64)
        batch[1, padding:] = ids
        mask = np.ones_like(batch)
        mask[1, :padding] = 0
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        return self.step(batch, self.empty_cache(2), mask, positions)[0][1, padding:]

    def greedy(self, ids, count):
        rows, cache = self.step([ids], self.empty_cache())
        out = [int(rows[0, -1].argmax())]
        while len(out) < count:
            rows, cache = self.step([out[-1:]], cache)
            out.append(int(rows[0, -1].argmax()))
        return out


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def close(self, actual, expected, tolerance=TOLERANCE):
        self.assertLess(np.abs(actual - expected).max(), tolerance * np.abs(expected).max())

    def check(self, directory, ids, expected):
        decoder = Decoder(directory)
        self.assertEqual([i.name for i in decoder.session.get_inputs()][:3], ["input_ids", "attention_mask", "position_ids"])
        self.close(decoder.steps(ids, len(ids)), expected)
        self.close(decoder.steps(ids, len(ids) * 4 // 5), expected)
        self.close(decoder.padded(ids, 3), expected)
        return decoder


class Teacher(Case):
    def test_schemes(self):
        ids = common.tokenize(common.TEACHER, common.PROMPT)
        for scheme in ("int4-g128-sym", "int4-g32-asym", "int8-channel-sym", "int3-g64-asym", "int2-g32-sym", "q4_0", "q8_0"):
            with self.subTest(scheme=scheme):
                model = common.quantized(common.TEACHER, self.dir / scheme, scheme)
                directory = common.exported(model, self.dir / f"{scheme}.onnx", "--format", "onnx")
                decoder = self.check(directory, ids, common.logits(model, ids))
                nodes = [n for n in onnx.load(directory / "model.onnx", load_external_data=False).graph.node
                         if n.op_type == "MatMulNBits"]
                self.assertGreaterEqual(len(nodes), 6 * 7)
                if scheme == "int4-g128-sym":
                    self.assertEqual({a.i for n in nodes for a in n.attribute if a.name == "block_size"}, {128})
                    self.check_greedy(model, decoder, ids)

    def check_greedy(self, model, decoder, ids):
        """Greedy tokens are those of our own float logits."""
        tokens = decoder.greedy(ids, 16)
        ours = common.logits(model, ids + tokens)[len(ids) - 1:-1].argmax(1)
        self.assertEqual(tokens, ours.tolist())

    def test_int8_activations(self):
        ids = common.tokenize(common.TEACHER, common.PROMPT)
        model = common.quantized(common.TEACHER, self.dir / "level", "int4-g32-sym")
        directory = common.exported(model, self.dir / "level.onnx", "--format", "onnx", "--accuracy-level", 4)
        self.close(Decoder(directory).steps(ids, len(ids)), common.logits(model, ids), INT8_ACTIVATIONS)

    def test_float(self):
        ids = common.tokenize(common.TEACHER, common.PROMPT)
        model = common.quantized(common.TEACHER, self.dir / "float", "int4-g128-sym")
        for name in ("f32", "f16", "bf16"):
            with self.subTest(type=name):
                directory = common.exported(model, self.dir / name, "--format", "onnx", "--type", name)
                dense = common.exported(model, self.dir / f"{name}-hf", "--format", "hf", "--type", name)
                self.check(directory, ids, common.logits(dense, ids))

    def test_a_damaged_file_is_found(self):
        model = common.quantized(common.TEACHER, self.dir / "damaged", "int4-g128-sym")
        directory = common.exported(model, self.dir / "damaged.onnx", "--format", "onnx")
        codes = next(w for w in onnx.load(directory / "model.onnx", load_external_data=False).graph.initializer
                     if w.name == "model.layers.2.mlp.gate_proj.weight.codes")
        place = {entry.key: entry.value for entry in codes.external_data}
        common.flip_byte(directory / place["location"], int(place["offset"]) + 9)
        self.assertGreater(retort("verify", directory, "--against", model, code=3)["codes_different"], 0)


class Families(Case):
    """Every family against the logits of transformers in tests/golden."""

    def test_logits(self):
        for family in common.FAMILIES:
            golden = load_file(family / "golden.safetensors")
            ids = golden["input_ids"][0].tolist()
            model = common.family_model(family, self.dir / family.name)
            with self.subTest(family=family.name, kind="float"):
                directory = common.exported(model, self.dir / f"{family.name}.onnx", "--format", "onnx")
                decoder = self.check(directory, ids, golden["logits"][0])
                steps = golden["step_logits"][0]
                self.close(decoder.steps(ids, len(ids) - len(steps))[-len(steps):], steps)
            with self.subTest(family=family.name, kind="int4"):
                solved = common.quantized(model, self.dir / f"{family.name}.int4", "int4-channel-sym")
                directory = common.exported(solved, self.dir / f"{family.name}.int4.onnx", "--format", "onnx")
                self.check(directory, ids, common.logits(solved, ids))


if __name__ == "__main__":
    unittest.main()

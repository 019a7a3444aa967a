"""GPTQModel, and transformers through it, load what `retort export --format gptq` and `--format awq` write and compute
what we compute; and so they do with what GPTQModel itself made, as we read it."""
import json
import sys
import unittest

import numpy as np
import torch
import through_gptqmodel
import transformers
from gptqmodel import BACKEND, GPTQModel

import common

TOLERANCE = 2e-2  # of the largest logit: its CPU kernels round activations to 16 bit
IN_FLOAT32 = 5e-4  # those that transformers chooses for a model in float32 do not
SAMPLES = common.DATA / "quantized"


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def close(self, theirs, ours, tolerance):
        difference = np.abs(theirs - ours).max() / np.abs(ours).max()
        print(f"{self.id()}: largest difference {difference:.1e} of the largest logit", file=sys.stderr)
        self.assertLess(difference, tolerance)


class Loaded(Case):
    def check(self, format, scheme):
        model = common.quantized(common.TEACHER, self.dir / f"{scheme}-{format}", scheme)
        return self.check_model(format, scheme, model)

    def check_model(self, format, scheme, model):
        """Logits are ours, and what it generates is what its own logits say."""
        directory = common.exported(model, self.dir / f"{scheme}.{format}", "--format", format)
        loaded = GPTQModel.load(str(directory), device="cpu", backend=BACKEND.TORCH)
        ids = common.tokenize(model, common.PROMPT)
        said = loaded.model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0].tolist()
        self.assertEqual(said[:len(ids)], ids)
        self.assertGreater(len(said), len(ids))
        ours = common.logits(model, said)[len(ids) - 1:-1]
        for row, token in zip(ours, said[len(ids):]):  # ours may prefer another by as much as it rounds
            self.assertLess(row.max() - row[token], 2 * TOLERANCE * np.abs(ours).max())
        self.close(through_gptqmodel.logits(loaded.model, ids), common.logits(model, ids), TOLERANCE)
        return json.loads((directory / "quantize_config.json").read_text())

    def test_gptq(self):
        for scheme in ("int4-g128-sym", "int4-g32-asym", "int8-g64-sym"):
            with self.subTest(scheme=scheme):
                config = self.check("gptq", scheme)
                self.assertEqual(config["checkpoint_format"], "gptq_v2" if scheme.endswith("-asym") else "gptq")

    @unittest.skipUnless(SAMPLES.exists(), "the data set is not beside the checkout")
    def test_gptq_in_activation_order(self):
        """Groups scattered over the columns, as GPTQModel itself made them, through our reader and writer."""
        config = self.check_model("gptq", "desc-act", SAMPLES / "gptqmodel-gptq-v2-desc-act")
        self.assertTrue(config["desc_act"])
        self.assertEqual(config["checkpoint_format"], "gptq_v2")

    def test_awq(self):
        for scheme in ("int4-g128-sym", "int4-g32-asym", "int4-channel-sym"):
            with self.subTest(scheme=scheme):
                self.check("awq", scheme)

    @unittest.skipUnless(SAMPLES.exists(), "the data set is not beside the checkout")
    def test_its_own(self):
        """What GPTQModel wrote gives the same logits there and here."""
        for name in ("gptqmodel-gptq", "gptqmodel-gptq-v2-desc-act", "gptqmodel-awq"):
            with self.subTest(sample=name):
                loaded = GPTQModel.load(str(SAMPLES / name), device="cpu", backend=BACKEND.TORCH)
                ids = common.tokenize(SAMPLES / name, common.PROMPT)
                self.close(through_gptqmodel.logits(loaded.model, ids), common.logits(SAMPLES / name, ids), TOLERANCE)


class ThroughTransformers(Case):
    def check(self, directory, model):
        loaded = through_gptqmodel.load(directory)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        ids = tokenizer(common.PROMPT)["input_ids"]
        self.assertEqual(ids, common.tokenize(model, common.PROMPT))
        self.close(through_gptqmodel.logits(loaded, ids), common.logits(model, ids), IN_FLOAT32)
        said = loaded.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0].tolist()
        self.assertEqual(said[len(ids):], common.logits(model, said)[len(ids) - 1:-1].argmax(1).tolist())
        return loaded

    def test_schemes(self):
        for format, schemes in {"gptq": ("int4-g128-sym", "int4-g32-asym", "int8-g64-sym"),
                                "awq": ("int4-g128-sym", "int4-g32-asym")}.items():
            for scheme in schemes:
                with self.subTest(format=format, scheme=scheme):
                    model = common.quantized(common.TEACHER, self.dir / f"{format}-{scheme}", scheme)
                    self.check(common.exported(model, self.dir / f"{scheme}.{format}", "--format", format), model)

    def test_matrices_that_are_dense(self):
        """One of one layer alone, and one of all layers, in several files."""
        keep = ("--keep", "*.1.self_attn.o_proj.weight=bf16", "--keep", "*.v_proj.weight=bf16")
        model = common.quantized(common.TEACHER, self.dir / "mixed", "int4-g64-sym", *keep)
        for format in ("gptq", "awq"):
            with self.subTest(format=format):
                options = ("--format", format, "--max-shard-size", "1MiB")
                directory = common.exported(model, self.dir / f"mixed.{format}", *options)
                self.assertGreater(len(list(directory.glob("model-*.safetensors"))), 2)
                layers = self.check(directory, model).model.layers
                dense = {layer.self_attn.v_proj for layer in layers} | {layers[1].self_attn.o_proj}
                for layer in layers:
                    for part in (*layer.self_attn.children(), *layer.mlp.children()):
                        if hasattr(part, "in_features"):
                            self.assertEqual(type(part) is torch.nn.Linear, part in dense)

    @unittest.skipUnless(SAMPLES.exists(), "the data set is not beside the checkout")
    def test_what_gptqmodel_made(self):
        for name in ("gptqmodel-gptq", "gptqmodel-gptq-v2-desc-act", "gptqmodel-awq"):
            with self.subTest(sample=name):
                self.check(SAMPLES / name, SAMPLES / name)


if __name__ == "__main__":
    unittest.main()

"""GPTQModel loads what `retort export --format gptq` and `--format awq` write and computes what we compute."""
import json
import os
import sys
import unittest

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it refuses machines with few cores without this

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel

import common

TOLERANCE = 2e-2  # of the largest logit: its CPU kernels round activations to 16 bit


class Loaded(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

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
        with torch.no_grad():
            theirs = loaded.model(torch.tensor([ids])).logits[0].float().numpy()
        ours = common.logits(model, ids)
        difference = np.abs(theirs - ours).max() / np.abs(ours).max()
        print(f"{format} {scheme}: largest difference {difference:.1e} of the largest logit", file=sys.stderr)
        self.assertLess(difference, TOLERANCE)
        return json.loads((directory / "quantize_config.json").read_text())

    def test_gptq(self):
        for scheme in ("int4-g128-sym", "int4-g32-asym", "int8-g64-sym"):
            with self.subTest(scheme=scheme):
                config = self.check("gptq", scheme)
                self.assertEqual(config["checkpoint_format"], "gptq_v2" if scheme.endswith("-asym") else "gptq")

    @unittest.skipUnless((common.DATA / "quantized").exists(), "the data set is not beside the checkout")
    def test_gptq_in_activation_order(self):
        """Groups scattered over the columns, as GPTQModel itself made them, through our reader and writer."""
        config = self.check_model("gptq", "desc-act", common.DATA / "quantized/gptqmodel-gptq-v2-desc-act")
        self.assertTrue(config["desc_act"])
        self.assertEqual(config["checkpoint_format"], "gptq_v2")

    def test_awq(self):
        for scheme in ("int4-g128-sym", "int4-g32-asym", "int4-channel-sym"):
            with self.subTest(scheme=scheme):
                self.check("awq", scheme)


if __name__ == "__main__":
    unittest.main()

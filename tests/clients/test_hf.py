"""transformers loads what `retort export --format hf` writes, in one file and in several."""
import json
import unittest

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

import common

TOLERANCE = 1e-5  # of the largest logit


class Hf(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)
        cls.model = common.quantized(common.TEACHER, cls.dir / "solved", "int4-g128-sym")

    def test_logits_and_tokens(self):
        self.check(common.exported(self.model, self.dir / "dense", "--format", "hf"))

    def test_shards(self):
        limit = 2 << 20
        path = common.exported(self.model, self.dir / "shards", "--format", "hf", "--max-shard-size", limit)
        files = sorted(file.name for file in path.glob("*.safetensors"))
        self.assertEqual(files, [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))])
        self.assertGreater(len(files), 2)
        held = [load_file(path / name) for name in files]
        for tensors in held:
            self.assertTrue(len(tensors) == 1 or sum(values.nbytes for values in tensors.values()) <= limit)
        index = json.loads((path / "model.safetensors.index.json").read_text())
        self.assertEqual(index["weight_map"], {name: file for file, tensors in zip(files, held) for name in tensors})
        self.assertEqual(index["metadata"]["total_size"], sum(v.nbytes for tensors in held for v in tensors.values()))
        self.check(path)

    def check(self, path):
        model = self.model
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self.assertEqual(tokenizer(common.HARD_TEXT)["input_ids"], common.tokenize(model, common.HARD_TEXT))
        ids = tokenizer(common.PROMPT)["input_ids"]
        loaded = transformers.AutoModelForCausalLM.from_pretrained(path)
        self.assertEqual(loaded.dtype, torch.float32)
        with torch.no_grad():
            theirs = loaded(torch.tensor([ids])).logits[0].numpy()
        ours = common.logits(model, ids)
        self.assertLess(np.abs(theirs - ours).max(), TOLERANCE * np.abs(ours).max())


if __name__ == "__main__":
    unittest.main()

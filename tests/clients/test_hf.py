"""transformers loads what `retort export --format hf` writes."""
import unittest

import numpy as np
import torch
import transformers

import common

TOLERANCE = 1e-5  # of the largest logit


class Hf(unittest.TestCase):
    def test_logits_and_tokens(self):
        directory = common.workspace(type(self))
        model = common.quantized(common.TEACHER, directory / "solved", "int4-g128-sym")
        path = common.exported(model, directory / "dense", "--format", "hf")
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

"""transformers loads what `retort prune` and `retort distill` write, and computes with it what it computes with the
source when the dropped layers are skipped and the inputs of the dropped channels are zeroed."""
import json
import unittest

import torch
import transformers

import common

TOLERANCE = 1e-5  # of the largest logit


def load(path):
    """The model in float32; a tensor too many or too few is a failure."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[key], (path, key, info[key])
    return model.eval()


def cut(model, layers, channels):
    """The source model without the dropped layers, the dropped channels zeroed."""
    kept = [model.model.layers[i] for i in layers]
    for index, (layer, stay) in enumerate(zip(kept, channels)):
        mask = torch.zeros(layer.mlp.down_proj.in_features)
        mask[stay] = 1
        layer.mlp.down_proj.weight.data *= mask
        layer.self_attn.layer_idx = index
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in layers]
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


class Prune(unittest.TestCase):
    def setUp(self):
        self.directory = common.workspace(type(self))

    def check(self, source, layers, ffn):
        path = self.directory / "pruned"
        report = common.retort("prune", source, "--output", path, "--overwrite", "--layers", layers, "--ffn", ffn,
                               "--ffn-multiple", 4, "--calibration", common.HELDOUT, "--samples", 4)
        self.assertEqual(report["kept_layers"], json.loads((path / "retort.json").read_text())["kept_layers"])
        pruned = load(path)
        self.assertEqual(sum(p.numel() for p in pruned.parameters()), report["parameters_after"])
        reference = cut(load(source), report["kept_layers"], report["kept_channels"])
        ids = torch.arange(24).reshape(2, 12) % pruned.config.vocab_size
        expected = logits(reference, ids)
        self.assertLess((logits(pruned, ids) - expected).abs().max(), TOLERANCE * expected.abs().max())
        return path

    def test_every_family(self):
        for family in common.FAMILIES:
            with self.subTest(family.name):
                source = common.family_model(family, self.directory / family.name)
                config = json.loads((source / "config.json").read_text())
                self.check(source, config["num_hidden_layers"] - 1, config["intermediate_size"] // 8 * 4)

    def test_teacher_and_a_student_of_it(self):
        pruned = self.check(common.TEACHER, 4, 512)
        student = self.directory / "student"
        common.retort("distill", "--teacher", common.TEACHER, "--student", pruned, "--data", common.HELDOUT,
                      "--output", student, "--steps", 2, "--batch-tokens", 512, "--held-out", 2)
        before, after = load(pruned), load(student)
        ids = transformers.AutoTokenizer.from_pretrained(student)(common.PROMPT, return_tensors="pt")["input_ids"]
        self.assertEqual(logits(after, ids).shape, logits(before, ids).shape)
        self.assertFalse(torch.equal(logits(after, ids), logits(before, ids)))
        self.assertEqual(transformers.AutoConfig.from_pretrained(student).dtype, torch.bfloat16)


if __name__ == "__main__":
    unittest.main()

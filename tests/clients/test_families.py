"""Every family and variant in every format: the program that the format is for loads the artifact and gives our logits.

docs/families.md is what comes out, and this test fails when the committed page says anything else.
usage: test_families.py [--write]: with it, the page is written anew."""
import json
import sys
import unittest

import gguf
import mlx.core as mx
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

import common
import test_awq
import test_gguf
import test_gptq
import test_mlx
import test_onnx
import through_gptqmodel
from common import retort
from through_gptqmodel import logits as transformers_logits

PAGE = common.ROOT / "docs/families.md"
TOLERANCE = 1e-5  # of the largest logit: both sides compute in float32
GROUP = 32


class Refused(Exception):
    """The export is refused before anything is written; the text is the reason that the program gives."""


class Family:
    """A golden model, the same in 4 bits, and the logits that both must give."""

    def __init__(self, golden, directory):
        self.name, self.dir, self.notes = golden.name, directory, []
        self.config = json.loads((golden / "config.json").read_text())
        stored = load_file(golden / "golden.safetensors")
        self.ids = stored["input_ids"][0].tolist()
        self.float = common.family_model(golden, directory / "float")
        self.int4 = common.quantized(self.float, directory / "int4", f"int4-g{GROUP}-sym", *self.kept())
        self.expected = {self.float: stored["logits"][0], self.int4: common.logits(self.int4, self.ids)}

    def kept(self):
        """Matrices whose sizes the groups, or the words of GPTQ and AWQ, do not divide."""
        c = self.config
        head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        names = ["o_proj"] if c["num_attention_heads"] * head_dim % GROUP else []
        names += ["k_proj", "v_proj"] if c["num_key_value_heads"] * head_dim % 8 else []
        return [part for name in names for part in ("--keep", f"*.{name}.weight=f32")]

    def export(self, model, name, *options):
        path = self.dir / name
        said = retort("export", model, "--output", path, *options, code=(0, 1))
        if isinstance(said, str):
            assert not path.exists(), path
            raise Refused(said.strip().removeprefix("retort: [export] "))
        self.notes = said["notes"]
        return common.verified(path, model)

    def check(self, model, logits, tolerance=TOLERANCE):
        expected = self.expected[model][:len(logits)]
        difference = np.abs(logits - expected).max() / np.abs(expected).max()
        if not difference < tolerance:
            raise AssertionError(f"{self.name}: a logit differs by {difference:.1e} of the largest")

    def features(self):
        c, rope = self.config, self.config["rope_parameters"]
        heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        found = [f"{heads} heads, {kv_heads} for keys"]
        found += ["tied embeddings"] if c["tie_word_embeddings"] else []
        found += ["joined projections"] if c["model_type"] == "phi3" else []
        found += ["biases in attention"] if c.get("attention_bias") or c["model_type"] == "qwen2" else []
        found += ["biases in the FFN"] if c.get("mlp_bias") else []
        windowed = c.get("sliding_window") and c.get("use_sliding_window", True)
        found += [f"window of {c['sliding_window']}"] if windowed else []
        scaling = " with ".join([f"rope `{rope['rope_type']}`", *(
            f"`{key}`" for key in ("attention_factor", "truncate") if key in rope)])
        found += [scaling] if rope["rope_type"] != "default" else []
        return "; ".join(found)


def hf(family):
    for model, name in ((family.float, "hf"), (family.int4, "hf-int4")):
        path = family.export(model, name, "--format", "hf", "--type", "f32")
        family.check(model, transformers_logits(transformers.AutoModelForCausalLM.from_pretrained(path), family.ids))


def gguf_tensors(path):
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in test_gguf.read(path).tensors}


def llama_cpp(family):
    """In F32 exactly; Q4_0 has the same numbers as the F32 file of the same model, and llama.cpp rounds activations."""
    path = family.export(family.int4, "int4.gguf", "--format", "gguf")
    dense = family.export(family.int4, "int4-f32.gguf", "--format", "gguf", "--type", "f32")
    right = gguf_tensors(dense)
    for name, values in gguf_tensors(path).items():
        np.testing.assert_array_equal(values, right[name], name)
    float_path = family.export(family.float, "float.gguf", "--format", "gguf", "--type", "f32")
    for model, file, tolerance in ((family.float, float_path, TOLERANCE), (family.int4, dense, TOLERANCE),
                                   (family.int4, path, test_gguf.RANDOM_TOLERANCE)):
        fields = test_gguf.read(file).fields
        context = fields[fields["general.architecture"].contents() + ".context_length"].contents()
        ids = family.ids[:context]  # which ends with the window, for llama.cpp has none in these families
        family.check(model, test_gguf.logits_of(test_gguf.load(file, 64), ids), tolerance)


def onnx(operators):
    def run(family):
        for model, name in ((family.float, f"{operators}.onnx"), (family.int4, f"int4-{operators}.onnx")):
            path = family.export(model, name, "--format", "onnx", "--operators", operators)
            family.check(model, test_onnx.Decoder(path).steps(family.ids, len(family.ids)))
    return run


def decoded(path, modules):
    """transformers' dense model with the weights of `modules`, a name to [out, in]."""
    config = transformers.AutoConfig.from_pretrained(path)
    del config.quantization_config
    loaded = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    stored = {name: torch.tensor(np.asarray(values)) for name, values in load_file(path / "model.safetensors").items()
              if not name.endswith(("qweight", "qzeros", "scales", "g_idx"))}
    state = {**stored, **{f"{name}.weight": torch.tensor(weight) for name, weight in modules.items()}}
    missing, extra = loaded.load_state_dict(state, strict=False)
    assert not extra and set(missing) <= {"lm_head.weight"}, (missing, extra)
    return loaded


def check_packed(family, path, modules):
    """Its numbers exactly, and the program that is made for it, which rounds."""
    family.check(family.int4, transformers_logits(decoded(path, modules), family.ids))
    loaded = through_gptqmodel.load(path)
    family.check(family.int4, transformers_logits(loaded, family.ids), through_gptqmodel.TOLERANCE)


def gptq(family):
    path = family.export(family.int4, "gptq", "--format", "gptq")
    tensors, config = load_file(path / "model.safetensors"), json.loads((path / "quantize_config.json").read_text())
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    check_packed(family, path, {name: test_gptq.dequantized(tensors, name, config) for name in names})


def awq(family):
    path = family.export(family.int4, "awq", "--format", "awq")
    tensors = load_file(path / "model.safetensors")
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    check_packed(family, path, {name: test_awq.dequantized(tensors, name) for name in names})


def compressed_tensors(family):
    path = family.export(family.int4, "compressed", "--format", "compressed-tensors")
    family.check(family.int4, transformers_logits(transformers.AutoModelForCausalLM.from_pretrained(path), family.ids))


def mlx(family):
    path = family.export(family.int4, "mlx", "--format", "mlx")
    loaded, _, config = test_mlx.load(path)
    loaded.set_dtype(mx.float32)
    ids = family.ids[:config["max_position_embeddings"]]  # as for llama.cpp
    logits = test_mlx.logits(loaded, ids)
    family.check(family.int4, logits)
    cached = test_mlx.cached_logits(loaded, ids, len(ids) - 4)
    assert np.abs(cached - logits[-4:]).max() < TOLERANCE * np.abs(logits).max()


# Name of the column, what loads it, and the check.
COLUMNS = (
    ("`hf`", "transformers", hf), ("`gguf`", "llama-cpp-python, and the gguf package", llama_cpp),
    ("`onnx`", "ONNX Runtime", onnx("contrib")),
    ("`onnx` of standard operators", "ONNX Runtime", onnx("standard")),
    ("`gptq`", "transformers with GPTQModel, and a decoder written from the layout", gptq),
    ("`awq`", "likewise", awq), ("`compressed-tensors`", "transformers with compressed-tensors", compressed_tensors),
    ("`mlx`", "mlx-lm", mlx))

INTRODUCTION = """# Families and formats

For each family, and for each thing in which models of one family differ, there is a small random model with the logits
that transformers gives it (`tests/golden/families`). It is exported to every format, in float32 where the format has that
and in 4 bits (`int4-g32-sym`), and the program named below loads the artifact. **yes**: its logits are the model's own,
to 1e-5 of the largest (in llama.cpp with `Q4_0`, and in GPTQModel, more loosely, see below); a number stands for the
reason for which `export` refuses the model before anything is written. **to the window**: the same, up to the number of
tokens after which the model's sliding window begins to move; there the artifact's context ends, as `export` and `verify`
note.
This page is written by `tests/clients/test_families.py --write`; a test fails when it is out of date.

"""
NOTES = f"""
llama.cpp rounds activations to 8 bits beside 4-bit weights, which the large random weights of these models carry far: there
the float32 file of the 4-bit model gives those logits, the `Q4_0` file has the same numbers, and its own logits are compared
to {test_gguf.RANDOM_TOLERANCE} of the largest. GPTQModel's kernel for CPUs rounds too: the numbers in the words of `gptq` and
`awq`, read by a decoder written from the layout alone, give the logits to 1e-5, and those of transformers through GPTQModel
are compared to {through_gptqmodel.TOLERANCE} of the largest. llama.cpp and mlx-lm know no window in these families: what is written for them
has a context that ends with the window, and is compared up to there. A model with `longrope` has other frequencies for
sequences beyond its original context: transformers and the `onnx` file choose by the sequence, llama.cpp by the size of the
context that it is given. llama-cpp-python gives llama.cpp bounds of `yarn` of its own unless it is called with
`yarn_beta_fast=-1.0, yarn_beta_slow=-1.0`.

Phi-3 is Mistral's decoder with joined projections (`qkv_proj`, `gate_up_proj`). It is read, and written, as Mistral, with
a matrix for each projection, which every program computes alike. A part of each head alone that turns with the position
(`partial_rotary_factor`, Phi-4-mini) is refused.
"""


def page(rows, reasons):
    heads = ["model", "what is in it", *(name for name, _, _ in COLUMNS)]
    lines = [INTRODUCTION + "| format | what loads it |", "| --- | --- |"]
    lines += [f"| {name} | {program} |" for name, program, _ in COLUMNS]
    lines += ["", "| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.items())]
    return "\n".join(lines) + "\n" + NOTES


def cell(check, family, reasons):
    def number(reason):
        return reasons.setdefault(f"`{family.name}`: {reason}", len(reasons) + 1)
    try:
        check(family)
        return f"to the window ({number(*family.notes)})" if family.notes else "yes"
    except Refused as refusal:
        return str(number(refusal))


def measured(directory):
    rows, reasons = [], {}
    for golden in common.FAMILIES:
        family = Family(golden, directory / golden.name)
        cells = [cell(check, family, reasons) for _, _, check in COLUMNS]
        rows.append([f"`{family.name}`", family.features(), *cells])
        print(*rows[-1], sep=" | ", file=sys.stderr)
    return page(rows, reasons)


class Families(unittest.TestCase):
    def test_every_family_in_every_format(self):
        self.maxDiff = None
        self.assertEqual(measured(common.workspace(type(self))), PAGE.read_text())


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        import pathlib
        import tempfile
        with tempfile.TemporaryDirectory() as scratch:
            PAGE.write_text(measured(pathlib.Path(scratch)))
    else:
        unittest.main()

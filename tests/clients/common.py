"""What the client tests share: running `retort`, models to export, and the logits to compare with."""
import json
import os
import pathlib
import shutil
import string
import subprocess
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEACHER = ROOT / "recipes/quickstart/teacher"
HELDOUT = ROOT / "recipes/quickstart/heldout.txt"
FAMILIES = sorted((ROOT / "tests/golden/families").iterdir())
DATA = ROOT.parent / "shared/data"

PROMPT = "The old man looked at the sea and said that"
# Everything that tokenizers trip over, without special tokens.
HARD_TEXT = (
    "The quick brown fox can't & won't: it's 3.14159 of 1,234,567 (0x7FFF)!\n\n\tTabs\t\tand   runs    of blanks \n \n"
    "  \r\n\r ends   \ndef f(x):\n        return {'a': [1, 2], \"b\": x**2}  # ~`@$%^&*_+=|\\<>?/;\n"
    "Héllo naïve façade straße Łódź é̈ Привет κόσμε שלום مرحبا नमस्ते 你好世界 こんにちは 안녕 สวัสดี\n"
    "😀👨‍👩‍👧🇩🇪 🏳️‍🌈 \u200b\u00a0\u2028\ufeff ▁under▁score \x01\x02\x07\x1b[31m\x7f €∞≠½ ﬁ Ⅷ\n"
    "[INST] <0x0A> </div> <| " + "a" * 90 + " " + "0" * 33)


def retort(*arguments, code=0):
    """Runs the program and returns what --json printed; `code` is the exit code it must give, or several."""
    command = [os.environ["RETORT_PROGRAM"], *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (code if isinstance(code, tuple) else (code,)):
        raise AssertionError(f"{' '.join(command)} gave {done.returncode}, not {code}:\n{done.stderr}")
    return json.loads(done.stdout) if done.stdout else done.stderr


def with_torch():
    """Whether the program has beside it the other one, which computes with LibTorch."""
    return pathlib.Path(os.environ["RETORT_PROGRAM"]).with_name("retort-torch").exists()


def workspace(test_case):
    """A fresh directory that goes when the test case has run."""
    path = tempfile.mkdtemp(prefix="retort-clients-")
    test_case.addClassCleanup(shutil.rmtree, path)
    return pathlib.Path(path)


def probe(*arguments, input):
    """What client_probe prints (probe.cc)."""
    command = [os.environ["RETORT_PROBE"], *map(str, arguments)]
    return subprocess.run(command, input=input, text=True, check=True, stdout=subprocess.PIPE).stdout


def logits(model, ids):
    """[tokens, vocabulary], from the built-in backend in float math."""
    with tempfile.NamedTemporaryFile() as out:
        probe("logits", model, out.name, input=" ".join(map(str, ids)))
        return np.fromfile(out.name, np.float32).reshape(len(ids), -1)


def tokenize(model, text):
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        return retort("tokenize", model, "--text", file.name)["ids"]


def tokenize_all(model, texts):
    """{text: ids}, as `retort tokenize` gives them, which would read a large vocabulary anew for each."""
    texts = list(texts)
    return dict(zip(texts, json.loads(probe("ids", model, input=json.dumps(texts))), strict=True))


def quantized(model, output, scheme, *options):
    """Rows that no group divides keep 16 bit, which is the exit code 3."""
    retort("quantize", model, "--output", output, "--scheme", scheme, "--method", "rtn", *options, code=(0, 3))
    return output


def keep_tied_head(scheme):
    """Block types give the head, here the embedding too, q6_k as llama-quantize does: only GGUF holds that."""
    return ("--keep", "model.embed_tokens.weight=q8_0") if scheme[0] == "q" and scheme != "q8_0" else ()


def exported(model, output, *options):
    """Exports and lets `verify` prove that nothing was lost."""
    retort("export", model, "--output", output, *options)
    return verified(output, model)


def verified(output, model):
    proof = retort("verify", output, "--against", model)
    for key in ("codes_different", "scales_different", "values_different"):
        assert proof[key] == 0, proof
    assert proof["logits_max_difference"] is not None and "logits_note" not in proof, proof
    assert proof["tokenizer_equal"] and proof["template_equal"] and proof["tensors_compared"] > 0, proof
    return output


def flip_byte(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x11]))


def ascii_tokenizer(vocab_size):
    """tokenizer.json of printable ASCII, one token a character and one merge, for models with tiny vocabularies."""
    texts = ["<unk>", "<s>", "</s>"] + [c for c in string.printable if c.isprintable() and c != " "]
    texts = [*texts[:vocab_size - 1], "ab"]
    added = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, text in enumerate(texts[:3])]
    regular = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {text: i for i, text in enumerate(texts)}, "merges": ["a b"]}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": regular, "post_processor": None, "decoder": regular, "model": model}


def family_model(family, directory):
    """A golden model of tests/golden/families with a tokenizer beside it."""
    directory.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(family / name, directory / name)
    vocab_size = json.loads((family / "config.json").read_text())["vocab_size"]
    (directory / "tokenizer.json").write_text(json.dumps(ascii_tokenizer(vocab_size)))
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return directory

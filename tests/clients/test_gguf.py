"""llama.cpp, through llama-cpp-python, loads what `retort export --format gguf` writes and computes what we compute."""
import json
import re
import shutil
import unittest
import unittest.mock

import gguf
import llama_cpp
import numpy as np

import common
from common import retort

F32_CACHE = 0  # ggml's number of the type F32
# Largest difference of a logit, in parts of the largest logit. llama.cpp computes F32 weights in float32, rounds the
# activations to the type of F16 and BF16 weights, and to 8 bit in blocks of 32 for Q8_0 and Q4_0.
TOLERANCE = {"f32": 1e-5, "f16": 2e-3, "bf16": 1e-2, "q8_0": 3e-2, "q4_0": 3e-2}
# The same for the root of the mean square, which varies less with the codes than the largest of a million differences:
# 3.5e-3 to 4.8e-3 come of activations in 8 bit, 5e-2 of one tensor whose blocks lie one place further on.
BLOCKS_TOLERANCE = 8e-3
RANDOM_TOLERANCE = 0.2  # large random weights carry the rounding of the activations much further; a wrong row gives 1


def load(path, context):
    return llama_cpp.Llama(model_path=str(path), n_ctx=context, n_batch=context, n_ubatch=context, logits_all=True,
                           n_threads=1, n_threads_batch=1, type_k=F32_CACHE, type_v=F32_CACHE, flash_attn=False,
                           yarn_beta_fast=-1.0, yarn_beta_slow=-1.0, verbose=False)


def read(path):
    """The gguf package's reader, on bytes in memory: it takes a vocabulary in very many pieces, and each piece of a memory
    map costs several times as much."""
    with unittest.mock.patch.object(np, "memmap", lambda path, mode: np.fromfile(path, np.uint8)):
        return gguf.GGUFReader(path)


def logits_of(llama, ids):
    llama.reset()
    llama.eval(ids)
    return np.array(llama.scores[:len(ids)], np.float32)


def tokens_of(llama, text):
    """Token ids, with BOS as the file says and special tokens recognised."""
    model = llama._model.model
    vocab = llama_cpp.llama_model_get_vocab(model)
    raw = text.encode()
    ids = (llama_cpp.llama_token * (len(raw) + 8))()
    count = llama_cpp.llama_tokenize(vocab, raw, len(raw), ids, len(ids), True, True)
    assert count >= 0, count
    return list(ids[:count])


def greedy(llama, ids, count):
    llama.reset()
    llama.eval(ids)
    out = []
    for _ in range(count):
        out.append(int(np.argmax(llama.scores[llama.n_tokens - 1])))
        llama.eval(out[-1:])
    return out


def perplexity(llama, ids, window, bos):
    """llama-perplexity's way: windows that do not overlap, BOS in front of each, the second half scored."""
    total, scored = 0.0, 0
    for begin in range(0, len(ids) - window + 1, window):
        tokens = list(ids[begin:begin + window])
        if bos is not None:
            tokens[0] = bos
        rows = logits_of(llama, tokens)[window // 2:window - 1].astype(np.float64)
        peak = rows.max(1, keepdims=True)
        log_probabilities = rows - peak - np.log(np.exp(rows - peak).sum(1, keepdims=True))
        total -= log_probabilities[np.arange(len(rows)), tokens[window // 2 + 1:]].sum()
        scored += len(rows)
    return np.exp(total / scored), scored


class Teacher(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)
        cls.ids = common.tokenize(common.TEACHER, common.PROMPT)

    def export(self, name, scheme=None, *options):
        model = common.TEACHER
        if scheme:
            model = self.dir / scheme
            if not model.exists():
                common.quantized(common.TEACHER, model, scheme)
        return model, common.exported(model, self.dir / f"{name}.gguf", "--format", "gguf", *options)

    def check(self, name, kind, scheme=None, *options):
        model, path = self.export(name, scheme, *options)
        llama = load(path, 256)
        ours = common.logits(path, self.ids)
        original = common.logits(model, self.ids)  # float16 alone rounds the teacher's bfloat16
        np.testing.assert_allclose(ours, original, rtol=0, atol=1e-3 * np.abs(original).max() if kind == "f16" else 0)
        theirs = logits_of(llama, self.ids)
        self.assertLess(np.abs(theirs - ours).max(), TOLERANCE[kind] * np.abs(ours).max())
        chosen = greedy(llama, self.ids, 16)
        rows = common.logits(path, self.ids + chosen)[len(self.ids) - 1:-1]
        # What llama.cpp chooses is what we would choose; where both round activations, up to a tie of that rounding.
        gaps = rows.max(1) - rows[np.arange(16), chosen]
        self.assertLessEqual(gaps.max(), 2 * TOLERANCE[kind] * np.abs(rows).max())
        if scheme is None:
            text = retort("generate", path, "--prompt", common.PROMPT, "--temperature", 0, "--max-new-tokens", 16)["text"]
            self.assertEqual(llama.detokenize(chosen).decode().rstrip(), text.rstrip())
        return path, llama

    def test_dense_types(self):
        for name in ("f32", "f16", "bf16"):
            with self.subTest(type=name):
                self.check(name, name, None, "--type", name)

    def test_quantized(self):
        for scheme, kind in {"q8_0": "q8_0", "q4_0": "q4_0", "int4-g128-sym": "q4_0", "int4-channel-sym": "q4_0",
                             "int3-g64-sym": "q4_0", "int8-channel-sym": "q8_0", "int8-g64-sym": "q8_0"}.items():
            with self.subTest(scheme=scheme):
                path, _ = self.check(scheme, kind, scheme)
                types = {t.tensor_type.name for t in read(path).tensors if ".ffn_" in t.name and "norm" not in t.name}
                self.assertEqual(types, {kind.upper()})

    def test_block_types(self):
        for scheme in ("q4_1", "q5_0", "q5_1", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"):
            with self.subTest(scheme=scheme):
                _, path = self.export(scheme, scheme)
                types = {t.tensor_type.name for t in read(path).tensors if ".ffn_" in t.name and "norm" not in t.name}
                self.assertIn(scheme.upper(), types)  # q2_k and q3_k are mixes: some tensors have more bits
                theirs, ours = logits_of(load(path, 256), self.ids), common.logits(path, self.ids)
                miss = np.sqrt(np.mean((theirs - ours) ** 2))
                self.assertLess(miss, BLOCKS_TOLERANCE * np.abs(ours).max())

    def test_mixes(self):
        tokens = 8 * 256
        ids = common.tokenize(common.TEACHER, common.HELDOUT.read_text())[:tokens]
        for scheme, number in {"q2_k_s": 21, "q3_k_m": 12, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17}.items():
            with self.subTest(scheme=scheme):
                _, path = self.export(scheme, scheme)
                self.assertEqual(read(path).fields["general.file_type"].contents(), number)
                theirs, scored = perplexity(load(path, 256), ids, 256, None)
                ours = retort("eval", path, "--text", common.HELDOUT, "--convention", "llama.cpp-256", "--max-tokens", tokens)
                self.assertEqual(ours["tokens"], scored)
                self.assertLess(abs(ours["perplexity"] / theirs - 1), 0.005)

    def test_parts(self):
        """llama.cpp finds the other files by the name of the first, and computes what it does with one file."""
        limit = 1 << 20
        model, single = self.export("single", "int4-g128-sym")
        directory = common.exported(model, self.dir / "parts", "--format", "gguf", "--max-shard-size", limit)
        parts = sorted(directory.iterdir())
        self.assertGreater(len(parts), 2)
        count = len(read(single).tensors)
        for number, part in enumerate(parts):
            self.assertRegex(part.name, rf"^.+-{number + 1:05d}-of-{len(parts):05d}\.gguf$")
            reader = read(part)
            split = [reader.fields[f"split.{key}"].contents() for key in ("no", "count", "tensors.count")]
            self.assertEqual(split, [number, len(parts), count])
            self.assertTrue(len(reader.tensors) == 1 or sum(t.n_bytes for t in reader.tensors) <= limit)
        whole = load(single, 256)
        np.testing.assert_array_equal(logits_of(load(parts[0], 256), self.ids), logits_of(whole, self.ids))
        parts[1].unlink()
        with self.assertRaises(ValueError):
            load(parts[0], 256)

    def test_token_ids(self):
        model, path = self.export("tokens", None, "--type", "f16")
        llama = load(path, 64)
        special = "<|im_start|>user\nHi<|im_end|> <|endoftext|>"
        for text in (common.PROMPT, common.HARD_TEXT, special + common.HARD_TEXT, common.HELDOUT.read_text()[:20000]):
            self.assertEqual(tokens_of(llama, text), common.tokenize(model, text))

    def test_perplexity_of_llama_cpp(self):
        path, llama = self.check("perplexity", "q4_0", "int4-g128-sym")
        tokens = 16 * 256
        ours = retort("eval", path, "--text", common.HELDOUT, "--convention", "llama.cpp-256", "--max-tokens", tokens)
        ids = common.tokenize(common.TEACHER, common.HELDOUT.read_text())[:tokens]
        theirs, scored = perplexity(llama, ids, 256, None)
        self.assertEqual(ours["tokens"], scored)
        self.assertLess(abs(ours["perplexity"] / theirs - 1), 0.005)

    def test_chat_template(self):
        _, path = self.export("template", None, "--type", "f16")
        stored = read(path).fields["tokenizer.chat_template"].contents()
        self.assertEqual(stored, (common.TEACHER / "chat_template.jinja").read_text())

    def test_named_chat_templates(self):
        """Under the keys of the gguf package's writer, where llama.cpp finds them."""
        model, templates = self.dir / "named", {"default": "a {{ messages }}", "tool_use": "b", "rag": "c"}
        shutil.copytree(common.TEACHER, model)
        (model / "chat_template.jinja").unlink()
        settings = json.loads((model / "tokenizer_config.json").read_text())
        listed = [{"name": name, "template": text} for name, text in templates.items()]
        (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": listed}))
        path = common.exported(model, self.dir / "named.gguf", "--format", "gguf")
        writer = gguf.GGUFWriter(self.dir / "theirs.gguf", "llama")
        writer.add_chat_template(listed)
        for key, value in writer.kv_data[0].items():
            if key.startswith("tokenizer."):
                stored = read(path).fields[key].contents()
                self.assertEqual(sorted(stored) if isinstance(stored, list) else stored,
                                 sorted(value.value) if isinstance(value.value, list) else value.value)
        llama = load(path, 64)
        for name, text in templates.items():
            found = llama_cpp.llama_model_chat_template(llama._model.model, None if name == "default" else name.encode())
            self.assertEqual(found.decode(), text)

    def test_tokens_that_end_a_generation(self):
        """llama.cpp stops at each of them, and at nothing that is no end by its text; what it cannot be told is said."""
        model = self.dir / "ends"
        shutil.copytree(common.TEACHER, model)
        known = {"<|im_start|>": False, "<|im_end|>": True, "<|endoftext|>": True}
        texts = {id: text for text, id in json.loads((model / "tokenizer.json").read_text())["model"]["vocab"].items()}
        ends = [id for id, text in sorted(texts.items()) if known.get(text)]
        self.assertEqual(len(ends), 2)
        for others, unsaid in (([300], []), ([300, 301], [301])):
            for name in ("config.json", "generation_config.json"):
                if (model / name).exists():
                    settings = json.loads((model / name).read_text())
                    (model / name).write_text(json.dumps({**settings, "eos_token_id": [*ends, *others]}))
            path = self.dir / f"ends{len(others)}.gguf"
            done = retort("export", model, "--format", "gguf", "--type", "f16", "--output", path)
            self.assertEqual([f"token {id} " in note for id, note in zip(unsaid, done["notes"], strict=True)], [True] * len(unsaid))
            self.assertTrue(retort("verify", path, "--against", model)["tokenizer_equal"])
            llama = load(path, 64)
            vocab = llama_cpp.llama_model_get_vocab(llama._model.model)
            stops = [id for id in texts if llama_cpp.llama_vocab_is_eog(vocab, id)]
            self.assertEqual(sorted(stops), sorted({*ends, *others} - set(unsaid)))

    @unittest.skipUnless(common.with_torch(), "this build has no LibTorch, with which models are calibrated")
    def test_what_a_calibrated_model_says_of_itself(self):
        model = self.dir / "calibrated"
        retort("quantize", common.TEACHER, "--output", model, "--scheme", "q4_0", "--method", "gptq", "--calibration",
               common.HELDOUT, "--samples", 4, "--sequence-length", 64)
        fields = read(common.exported(model, self.dir / "calibrated.gguf", "--format", "gguf")).fields
        said = {name: fields[f"retort.{name}"].contents() for name in ("scheme", "method", "calibration", "group_order")}
        self.assertEqual(said, {"scheme": "q4_0", "method": "gptq", "calibration": "4 windows of 64 tokens",
                                "group_order": "activation"})

    def test_a_damaged_file_is_found(self):
        model, path = self.export("damaged", "q4_0")
        tensor = next(t for t in read(path).tensors if t.name == "blk.3.attn_k.weight")
        common.flip_byte(path, tensor.data_offset + 5)
        proof = retort("verify", path, "--against", model, code=3)
        self.assertGreater(proof["codes_different"], 0)


@unittest.skipUnless((common.DATA / "quantized/gguf").exists(), "the data set is not beside the checkout")
class LlamaQuantize(unittest.TestCase):
    """Files that llama-quantize made, read and written again."""

    def test_logits(self):
        directory = common.workspace(type(self))
        for source in sorted((common.DATA / "quantized/gguf").glob("*-Q*.gguf")):
            with self.subTest(file=source.name):
                path = common.exported(source, directory / source.name, "--format", "gguf")
                ids = common.tokenize(source, common.PROMPT)
                theirs, ours = logits_of(load(path, 64), ids), common.logits(source, ids)
                self.assertLess(np.abs(theirs - ours).max(), TOLERANCE["q4_0"] * np.abs(ours).max())


@unittest.skipUnless(common.DATA.exists(), "the data set is not beside the checkout")
class Stories(unittest.TestCase):
    """A SentencePiece model whose FFN no block divides."""

    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)
        cls.model = common.DATA / "weights/stories260K-hf"

    def test_float_continues_as_its_author_says(self):
        path = common.exported(self.model, self.dir / "f32.gguf", "--format", "gguf", "--type", "f32")
        llama = load(path, 256)
        # llama.cpp puts a blank in front of the text after a special token, so they come last.
        for text in ("Once upon a time", common.HARD_TEXT, common.HARD_TEXT + "<s></s>"):
            self.assertEqual(tokens_of(llama, text), common.tokenize(self.model, text))
        told = (common.DATA / "weights/stories260K/stories260K.md").read_text()
        told = re.search(r"Once upon a time, .*", told, re.S).group(0)
        ids = tokens_of(llama, "Once upon a time")
        continuation = llama.detokenize(greedy(llama, ids, 60)).decode()
        self.assertTrue(told.startswith("Once upon a time" + continuation), continuation)

    def test_blocks_that_do_not_divide(self):
        model = self.dir / "int8"
        retort("quantize", self.model, "--output", model, "--scheme", "int8-channel-sym", "--method", "rtn")
        refusal = retort("export", model, "--output", self.dir / "x.gguf", "--format", "gguf", code=1)
        self.assertIn("mlp.down_proj.weight", refusal)
        self.assertFalse((self.dir / "x.gguf").exists())
        path = self.dir / "fallback.gguf"
        done = retort("export", model, "--output", path, "--format", "gguf", "--fallback", "f16", code=3)
        self.assertTrue(all("down_proj" in entry["tensor"] for entry in done["fallbacks"]))
        proof = retort("verify", path, "--against", model, code=3)
        self.assertEqual(proof["tensors_rounded"], len(done["fallbacks"]))
        self.assertEqual(proof["values_different"], 0)
        self.assertFalse(proof["equal"])
        load(path, 64)


if __name__ == "__main__":
    unittest.main()

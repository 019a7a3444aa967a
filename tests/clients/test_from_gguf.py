"""GGUF files, also those that other tools wrote, become directories: with a tokenizer that gives the same ids in the
libraries of Hugging Face, and with the same logits."""
import json
import pathlib
import unittest

import gguf
import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file

import common
import test_gguf
import test_tokenizers

GOLDEN = common.ROOT / "tests/golden/tokenizer/corpus.json"
# One name for each way of cutting text that core/tokenizer/gguf_pre_tokenizers.cc knows.
PRE_TOKENIZERS = (
    "gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "qwen35", "minicpm5", "tekken", "gpt-4o", "tiny_aya",
    "deepseek-v3", "deepseek-llm", "deepseek-coder", "falcon", "bailingmoe", "seed-coder", "exaone-moe", "jais-2", "laguna",
    "bloom", "viking", "superbpe", "default")


def corpus():
    texts = json.loads(GOLDEN.read_text(encoding="utf-8"))["texts"]
    return ["".join(part * times for part, times in text["parts"]) for text in texts if "parts" in text]


def add_tokenizer(writer, fields, pre=None):
    """That of another GGUF file, which has these fields."""
    for name, field in fields.items():
        if name.startswith("tokenizer."):
            value = pre if pre and name == "tokenizer.ggml.pre" else field.contents()
            writer.add_key_value(name, value, field.types[0], field.types[1] if len(field.types) > 1 else None)


def write_all(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def grafted(fields, path, pre=None):
    """A model of one small layer with the tokenizer of another GGUF file, as the gguf package writes it."""
    writer = gguf.GGUFWriter(path, "llama")
    size, width = len(fields["tokenizer.ggml.tokens"].data), 32
    for name, number in (("context_length", 64), ("embedding_length", width), ("feed_forward_length", width),
                         ("block_count", 1), ("attention.head_count", 2), ("vocab_size", size)):
        writer.add_uint32("llama." + name, number)
    writer.add_layer_norm_rms_eps(1e-5)
    add_tokenizer(writer, fields, pre)
    random = np.random.default_rng(3)
    rows = {"token_embd": size, **{f"blk.0.{name}": width for name in (
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}}
    for name, count in rows.items():
        writer.add_tensor(name + ".weight", random.standard_normal((count, width), np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(name + ".weight", np.ones(width, np.float32))
    write_all(writer)
    return path


PHI3_NAMES = {"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up",
              "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def phi3_file(golden, vocabulary, path, kind, scaling=None):
    """Of a golden Phi-3 model, in the architecture that llama.cpp has for it: with joined matrices, of the type `kind`,
    but those of gate and up in Q5_0 where the others are Q8_0."""
    config = json.loads((golden / "config.json").read_text())
    rope = config["rope_parameters"]
    writer = gguf.GGUFWriter(path, "phi3")
    numbers = {"context_length": "max_position_embeddings", "embedding_length": "hidden_size",
               "feed_forward_length": "intermediate_size", "block_count": "num_hidden_layers",
               "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads"}
    for name, key in numbers.items():
        writer.add_uint32("phi3." + name, config[key])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_sliding_window(config["sliding_window"] or 0)
    if scaling:
        writer.add_string("phi3.rope.scaling.type", scaling)
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(
            float(np.sqrt(1 + np.log(config["max_position_embeddings"] / original) / np.log(original))))
        for length in ("short", "long"):
            writer.add_tensor(f"rope_factors_{length}.weight", np.array(rope[f"{length}_factor"], np.float32))
    add_tokenizer(writer, test_gguf.read(vocabulary).fields)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    for name, values in load_file(golden / "model.safetensors").items():
        stored = names.get(name)
        if not stored:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            stored = f"blk.{layer}.{PHI3_NAMES[part]}.weight"
        if values.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            block = gguf.GGMLQuantizationType.Q5_0 if "ffn_up" in stored else kind
            writer.add_tensor(stored, gguf.quantize(values, block), raw_dtype=block)
        else:
            writer.add_tensor(stored, values)
    write_all(writer)
    return path


class Loaded:
    """The tokenizer of a directory in both libraries."""

    def __init__(self, directory):
        self.library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.transformers = transformers.AutoTokenizer.from_pretrained(directory)

    def ids(self, text):
        ids = self.library.encode(text).ids
        theirs = self.transformers(text)["input_ids"]
        assert theirs == ids, f"transformers gives {theirs} for {text[:80]!r}, tokenizers {ids}"
        return ids

    def text(self, ids):
        return self.transformers.decode(ids, skip_special_tokens=True)


def without_strips(path):
    """GGUF does not say which tokens take the blanks beside them."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    for token in stored["added_tokens"]:
        token["lstrip"] = token["rstrip"] = False
    return tokenizers.Tokenizer.from_str(json.dumps(stored))


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def from_gguf(self, model, name):
        return common.exported(model, self.dir / f"{name}-hf", "--format", "hf")


class EveryWayOfCuttingText(Case):
    def test_ids(self):
        fields = test_gguf.read(common.exported(common.TEACHER, self.dir / "teacher.gguf", "--format", "gguf")).fields
        text = "\n".join(text for text in corpus() if len(text) < 2000)
        for pre in PRE_TOKENIZERS:
            with self.subTest(pre=pre):
                model = grafted(fields, self.dir / f"{pre}.gguf", pre)
                loaded = Loaded(self.from_gguf(model, pre))
                self.assertEqual(loaded.ids(text), common.tokenize(model, text))


class EveryFamily(Case):
    def test_logits(self):
        """What config.json says after the way through a GGUF file gives transformers the logits of the golden model."""
        for golden in common.FAMILIES:
            with self.subTest(family=golden.name):
                model = common.family_model(golden, self.dir / golden.name)
                file = self.dir / f"{golden.name}.gguf"
                refusal = common.retort("export", model, "--format", "gguf", "--type", "f32", "--output", file, code=(0, 1))
                if not file.exists():
                    self.assertIn("llama.cpp", refusal)
                    continue
                directory = self.from_gguf(file, golden.name)
                stored = load_file(golden / "golden.safetensors")
                loaded = transformers.AutoModelForCausalLM.from_pretrained(directory)
                ids = stored["input_ids"][0][:loaded.config.max_position_embeddings]  # within the window: see docs
                with torch.no_grad():
                    theirs = loaded(torch.tensor(ids[None])).logits[0].numpy()
                expected = stored["logits"][0][:len(ids)]
                self.assertLess(np.abs(theirs - expected).max(), 1e-5 * np.abs(expected).max())


class BlanksOfTokens(Case):
    TEXT = "<|user|>\nhi there<|end|>\n<|assistant|>\n  ok</s> x<|endoftext|>\n"

    @unittest.skipUnless((common.DATA / "tokenizers/phi-3").exists(), "the data set is not beside the checkout")
    def test_phi3(self):
        """A tokenizer whose tokens take the blanks behind them, as llama.cpp has Phi-3's by the name of the model."""
        files = test_tokenizers.tokenizer_files("phi-3", self.dir / "files")
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32064, "hidden_size": 32,
                  "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "bos_token_id": 1,
                  "eos_token_id": 32000, "dtype": "float32"}
        path = self.dir / "config.json"
        for name, strips, model_id in (("none", None, "some/phi3x"), ("all", "rule", "some/model"), ("one", "<|end|>", "some/model")):
            path.write_text(json.dumps({**config, "_name_or_path": model_id}))
            stored = json.loads((common.DATA / "tokenizers/phi-3/tokenizer.json").read_text(encoding="utf-8"))
            for token in stored["added_tokens"]:
                exempt = token["content"] in ("<unk>", "<s>", "<|endoftext|>")
                token["rstrip"] = not exempt if strips == "rule" else token["content"] == strips
            (files / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
            settings = json.loads((files / "tokenizer_config.json").read_text())
            settings.pop("added_tokens_decoder", None)
            (files / "tokenizer_config.json").write_text(json.dumps(settings))
            common.retort("init", "--config", path, "--tokenizer", files, "--output", self.dir / name, "--type", "f32")
            file = self.dir / f"{name}.gguf"
            done = common.retort("export", self.dir / name, "--format", "gguf", "--type", "f32", "--output", file)
            proof = common.retort("verify", file, "--against", self.dir / name)
            library = tokenizers.Tokenizer.from_str(json.dumps(stored))
            library.no_truncation()
            ids, theirs = library.encode(self.TEXT).ids, test_gguf.tokens_of(test_gguf.load(file, 64), self.TEXT)
            with self.subTest(tokens=name):
                self.assertEqual(common.tokenize(self.dir / name, self.TEXT), ids)
                self.assertEqual(common.tokenize(file, self.TEXT), theirs)
                said = [note for note in (*done["notes"], *proof["notes"]) if "blanks beside '<|end|>' belong" in note]
                self.assertEqual(len(said), 2 if name == "one" else 0)
                if name != "one":
                    self.assertEqual(theirs, ids)
                    again = common.exported(file, self.dir / f"{name}-again", "--format", "hf")
                    self.assertEqual(Loaded(again).library.encode(self.TEXT).ids, ids)


class JoinedMatrices(Case):
    def test_phi3(self):
        """The logits of transformers' Phi-3, of llama.cpp's and ours, and the integers of joined matrices taken apart."""
        for name in ("phi3", "phi3-longrope"):
            golden = common.ROOT / "tests/golden/families" / name
            model = common.family_model(golden, self.dir / name)
            vocabulary = common.exported(model, self.dir / f"{name}-llama.gguf", "--format", "gguf", "--type", "f32")
            source = transformers.AutoModelForCausalLM.from_pretrained(model)
            stored = load_file(golden / "golden.safetensors")
            window = json.loads((golden / "config.json").read_text())["sliding_window"] or 64
            ids, expected = stored["input_ids"][0].tolist(), stored["logits"][0]
            for kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0):
                with self.subTest(model=name, type=kind.name):
                    file = phi3_file(golden, vocabulary, self.dir / f"{name}-{kind.name}.gguf", kind)
                    logits = common.logits(file, ids)
                    exact = kind == gguf.GGMLQuantizationType.F32
                    if exact:
                        self.assertLess(np.abs(logits - expected).max(), 1e-5 * np.abs(expected).max())
                    tolerance = (1e-5 if exact else test_gguf.RANDOM_TOLERANCE) * np.abs(logits).max()
                    theirs = test_gguf.logits_of(test_gguf.load(file, 64), ids[:window])  # llama.cpp has no window here
                    self.assertLess(np.abs(theirs - logits[:window]).max(), tolerance)
                    if exact:  # LongRoPE's factors for short texts; llama.cpp takes them by the size of its context
                        with torch.no_grad():
                            short = source(torch.tensor([ids[:24]])).logits[0].numpy()
                        self.assertLess(np.abs(common.logits(file, ids[:24]) - short).max(), tolerance)
                    if exact and name == "phi3-longrope":
                        wrong = phi3_file(golden, vocabulary, self.dir / "linear.gguf", kind, "linear")
                        refusal = common.retort("export", wrong, "--format", "hf", "--output", self.dir / "no", code=1)
                        self.assertIn("factors of LongRoPE and the rope scaling 'linear' are combined", refusal)
                    for format in ("hf", "gguf"):
                        again = common.exported(file, self.dir / f"{name}-{kind.name}-{format}", "--format", format)
                        np.testing.assert_array_equal(common.logits(again, ids[:window]), logits[:window])


@unittest.skipUnless(common.DATA.exists(), "the data set is not beside the checkout")
class FromOtherTools(Case):
    def test_vocabularies_of_llama_cpp(self):
        for file in sorted((common.DATA / "tokenizers/ggml-vocab").glob("*.gguf")):
            with self.subTest(vocabulary=file.name):
                loaded = Loaded(self.from_gguf(grafted(test_gguf.read(file).fields, self.dir / file.name), file.stem))
                texts = pathlib.Path(f"{file}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
                lines = pathlib.Path(f"{file}.out").read_text().split("\n")
                begin = 1 if loaded.ids("")[:1] == [loaded.transformers.bos_token_id] else 0
                for text, line in zip(texts, lines):
                    expected = [int(number) for number in line.split()]
                    self.assertEqual(loaded.ids(text)[begin:], expected, text)
                    self.assertEqual(loaded.text(expected), text)
                whole = "\n".join(text for text in corpus() if len(text) < 2000)
                self.assertEqual(loaded.ids(whole), common.tokenize(self.dir / file.name, whole))
                llama = test_gguf.load(self.dir / file.name, 64)
                for text in corpus():
                    if len(text) < 2000 and "\0" not in text:
                        self.assertEqual(loaded.ids(text), test_gguf.tokens_of(llama, text), text)

    def test_logits(self):
        names = ["weights/stories260K/stories260K.gguf", *(f"quantized/gguf/books-5.8m-{name}.gguf" for name in (
            "Q4_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q6_K"))]
        for name in names:
            with self.subTest(model=name):
                path = common.DATA / name
                directory = self.from_gguf(path, path.stem)
                loaded = Loaded(directory)
                ids = loaded.ids(common.PROMPT)
                llama = test_gguf.load(path, 64)
                for text in (common.PROMPT, common.HARD_TEXT):
                    self.assertEqual(loaded.ids(text), test_gguf.tokens_of(llama, text))
                model = transformers.AutoModelForCausalLM.from_pretrained(directory)
                self.assertEqual(model.generation_config.eos_token_id, llama.token_eos())
                with torch.no_grad():
                    theirs = model(torch.tensor([ids])).logits[0].float().numpy()
                ours, right = common.logits(path, ids), test_gguf.logits_of(llama, ids)
                self.assertLess(np.abs(theirs - ours).max(), 1e-5 * np.abs(ours).max())
                # llama.cpp rounds activations beside integers.
                tolerance = test_gguf.TOLERANCE["f32" if name.startswith("weights") else "q4_0"]
                self.assertLess(np.abs(theirs - right).max(), tolerance * np.abs(right).max())

    def test_integers(self):
        """llama-quantize gives the embedding, which is the head here, q6_k: only GGUF holds that as it is."""
        path = common.DATA / "quantized/gguf/books-5.8m-Q4_0.gguf"
        ids = common.tokenize(path, common.PROMPT)
        expected = common.logits(path, ids)
        for name in ("gptq", "awq", "compressed-tensors", "onnx", "mlx"):
            with self.subTest(format=name):
                directory = self.dir / f"Q4_0-{name}"
                done = common.retort("export", path, "--format", name, "--fallback", "f32", "--output", directory, code=3)
                self.assertEqual([entry["tensor"] for entry in done["fallbacks"]], ["model.embed_tokens.weight"])
                common.verified(directory, path)
                if name in ("gptq", "awq", "compressed-tensors"):  # which our own decoder reads
                    self.assertTrue(np.array_equal(common.logits(directory, ids), expected))


@unittest.skipUnless(common.DATA.exists(), "the data set is not beside the checkout")
class ThereAndBack(test_tokenizers.Models):
    """A directory, the GGUF file made of it, and the directory made of that."""

    @staticmethod
    def reference(model):
        if (model / "tokenizer.json").exists():
            library = without_strips(model / "tokenizer.json")
            library.no_truncation()
            return (lambda text: library.encode(text).ids), (lambda ids: library.decode(ids))
        pieces = sentencepiece.SentencePieceProcessor(str(model / "tokenizer.model"))
        return (lambda text: [1, *pieces.encode(text)]), (lambda ids: pieces.decode(ids[1:]))

    def test_ids(self):
        for name in test_tokenizers.NAMES:
            model = self.model(name)
            file = common.exported(model, self.dir / f"{name}.gguf", "--format", "gguf", "--type", "f32")
            loaded = Loaded(common.exported(file, self.dir / f"{name}-back", "--format", "hf"))
            special = self.specials(model)
            encode, decode = self.reference(model)
            for text in corpus():
                if not (model / "tokenizer.json").exists() and any(token in text for token in special):
                    continue  # SentencePiece knows no special tokens in texts
                with self.subTest(tokenizer=name, text=text[:40]):
                    ids = encode(text)
                    self.assertEqual(loaded.ids(text), ids)
                    self.assertEqual(loaded.text(ids), decode(ids))


if __name__ == "__main__":
    unittest.main()

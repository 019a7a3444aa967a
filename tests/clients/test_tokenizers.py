"""The tokenizers of exported artifacts, in the programs that load them, give the ids of the model's own tokenizer: for a
hard corpus, with real vocabularies of both kinds."""
import json
import re
import shutil
import unittest

import sentencepiece
import tokenizers
import transformers

import common
import test_gguf

CORPUS = [line for line in common.HARD_TEXT.split("\n") if line] + [
    common.HARD_TEXT, common.PROMPT, "", " ", "\n", "  leading and trailing  ", "\t\n\r\n \u3000\u00a0x", "\x00\x01\x1f\x7f\x85",
    "I'm we'll THEY'RE it's 12345678 3.14 １２３ ⅫⅣ ²³", "مرحبا بالعالم ‏RTL‎ שָׁלוֹם", "ก็ไม่มี ภาษา 한국어 조합 각", "👩🏽‍🚀🧑‍🤝‍🧑🇺🇳‼️ ☕️",
    "a\u0301 \u00e1 \ufb03 \u212b \u2126 ǅ ß ẞ İ ı", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U00020000 \U0010ffff", "!!!???...———~~~```'''\"\"\"", "for(i=0;i<10;++i){a[i]*=2;}\t// x",
    "if (x) {\r\n    return 1;  \r\n}\r\n", "  if (x12345678) {\r\n    return 1234567;  \r\n}\r\n", "// ──────  ═══", " " + "abcdefghij" * 30]

NAMES = {"smollm2": "Byte-level BPE", "phi-3": "SentencePiece, as tokenizer.json", "mistral": "SentencePiece",
         "llama2-spm-32000": "SentencePiece"}


def tokenizer_files(name, directory):
    """A directory as it lies beside a checkpoint."""
    source = common.DATA / "tokenizers" / name
    directory.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja"):
        if (source / file).exists():
            shutil.copy(source / file, directory / file)
    if name == "mistral":
        shutil.copy(source / "tokenizer.model.v1", directory / "tokenizer.model")
    if not (directory / "tokenizer_config.json").exists():
        settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                    "add_bos_token": True, "add_eos_token": False, "legacy": True}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


class Models(unittest.TestCase):
    """Random models with the tokenizers of real ones."""

    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def model(self, name, **settings):
        files = tokenizer_files(name, self.dir / f"{name}-files")
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": self.size(files),
                  "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
                  "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32", **settings}
        path = self.dir / f"{name}.json"
        path.write_text(json.dumps(config))
        common.retort("init", "--config", path, "--tokenizer", files, "--output", self.dir / name, "--type", "f32")
        return self.dir / name

    @staticmethod
    def size(files):
        if not (files / "tokenizer.json").exists():
            return 32000
        stored = json.loads((files / "tokenizer.json").read_text())
        return 1 + max([*stored["model"]["vocab"].values(), *(token["id"] for token in stored["added_tokens"])])

    @staticmethod
    def specials(model):
        path = model / "tokenizer.json"
        if not path.exists():
            return ["<s>", "</s>"]
        return [token["content"] for token in json.loads(path.read_text())["added_tokens"] if token["special"]]


@unittest.skipUnless((common.DATA / "tokenizers").exists(), "the data set is not beside the checkout")
class Tokenizers(Models):
    @staticmethod
    def reference(directory):
        """The library that the tokenizer's file is written for, on the file that the artifact has."""
        if (directory / "tokenizer.json").exists():
            tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return lambda text: tokenizer.encode(text).ids
        pieces = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
        specials = {"<s>": 1, "</s>": 2}
        # It knows no special tokens in texts; those of this test come last.
        return lambda text: [1, *pieces.encode(re.sub("(</?s>)*$", "", text)),
                             *(specials[found] for found in re.findall("</?s>", re.search("(</?s>)*$", text).group()))]

    def test_ids(self):
        for name, kind in NAMES.items():
            model = self.model(name)
            llama = test_gguf.load(common.exported(model, self.dir / f"{name}.gguf", "--format", "gguf", "--type", "f32"), 64)
            directory = common.exported(model, self.dir / f"{name}-hf", "--format", "hf")
            loaded, source = (transformers.AutoTokenizer.from_pretrained(path) for path in (directory, model))
            reference = self.reference(directory)
            special = "".join(self.specials(model)[:6])
            # llama.cpp puts a blank in front of text that follows a special token, so they come last there.
            texts = [*CORPUS, common.HARD_TEXT + special]
            inside = f"one{special}two {special} three" if kind.startswith("Byte") else "one" + special
            for text, ours in common.tokenize_all(model, [*texts, inside]).items():
                with self.subTest(tokenizer=name, text=text[:40]):
                    self.assertEqual(test_gguf.tokens_of(llama, text), ours)
                    self.assertEqual(reference(text), ours)
                    self.assertEqual(loaded(text)["input_ids"], source(text)["input_ids"])
                    if kind.startswith("Byte"):  # LlamaTokenizer of transformers 5 puts parts of its own into others
                        self.assertEqual(loaded(text)["input_ids"], ours)
            vocabulary = llama._model
            self.assertEqual(vocabulary.token_bos(), loaded.bos_token_id)
            self.assertEqual(vocabulary.token_eos(), loaded.eos_token_id)
            self.assertEqual(vocabulary.add_bos_token(), common.tokenize(model, "x")[0] == loaded.bos_token_id)


if __name__ == "__main__":
    unittest.main()

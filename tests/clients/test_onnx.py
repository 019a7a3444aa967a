"""ONNX Runtime and onnxruntime-genai run what `retort export --format onnx` writes, in both sets of operators: prefill,
cached steps, padded batches, generation."""
import json
import unittest

import numpy as np
import onnx
import onnxruntime
import onnxruntime_genai
import tokenizers
from safetensors.numpy import load_file

import common
import test_tokenizers
from common import retort

TOLERANCE = 1e-5  # of the largest logit: both sides compute in float32
INT8_ACTIVATIONS = 3e-2  # with --accuracy-level 4
OPERATORS = ("contrib", "standard")


def nodes_of(directory):
    return onnx.load(directory / "model.onnx", load_external_data=False).graph.node


def decoded_weights(directory):
    """Every integer weight as float32 [out, in], by the definitions of the operators that use it."""
    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def values(name):  # of a part: codes and zero points as one integer each
        place = {entry.key: entry.value for entry in stored[name].external_data}
        data = np.fromfile(directory / place["location"], np.uint8, int(place["length"]), offset=int(place["offset"]))
        kind, dims = stored[name].data_type, list(stored[name].dims)
        if kind == onnx.TensorProto.FLOAT:
            return data.view(np.float32).reshape(dims)
        if kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
            data = np.stack([data & 15, data >> 4], -1).ravel()[:np.prod(dims)].reshape(dims)
            return np.where(data > 7, data.astype(np.int32) - 16, data) if kind == onnx.TensorProto.INT4 else data
        return (data.view(np.int8) if kind == onnx.TensorProto.INT8 else data).reshape(dims)

    def split(packed, bits, count):  # the last axis of bytes into values, low bits first
        parts = [packed >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
        return np.stack(parts, -1).reshape(*packed.shape[:-1], -1)[..., :count].astype(np.int32)

    weights = {}
    for node in graph.node:
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "MatMulNBits":
            bits, block = attributes["bits"], attributes["block_size"]
            codes, scales = split(values(node.input[1]), bits, block), values(node.input[2])
            zeros = 1 << (bits - 1)
            if len(node.input) > 3 and node.input[3]:
                zeros = split(values(node.input[3]), bits, scales.shape[1])[..., None]
            rows = ((codes - zeros).astype(np.float32) * scales[..., None]).reshape(len(scales), -1)
            weights[node.input[1].removesuffix(".codes")] = rows[:, :attributes["K"]]
        elif node.op_type == "DequantizeLinear":
            codes = values(node.input[0]).astype(np.int32)
            zeros = values(node.input[2]).astype(np.int32) if len(node.input) > 2 else 0
            spread = lambda part: np.repeat(part, attributes["block_size"], 0)[:len(codes)] if np.ndim(part) else part
            weights[node.input[0].removesuffix(".codes")] = (
                (codes - spread(zeros)).astype(np.float32) * spread(values(node.input[1]))).T
    return weights


class Decoder:
    def __init__(self, directory):
        onnx.checker.check_model(str(directory / "model.onnx"), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Without this, DequantizeLinear and MatMul are fused into a MatMulNBits that rounds activations to 8 bits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(directory / "model.onnx"), options)
        config = json.loads((directory / "config.json").read_text())
        heads = config["num_attention_heads"]
        self.layers = config["num_hidden_layers"]
        self.cache_shape = (config.get("num_key_value_heads", heads), 0, config.get("head_dim", config["hidden_size"] // heads))

    def empty_cache(self, batch=1):
        return {f"past_key_values.{layer}.{part}": np.zeros((batch, *self.cache_shape), np.float32)
                for layer in range(self.layers) for part in ("key", "value")}

    def step(self, ids, cache, mask=None, positions=None):
        """Logits of `ids` behind `cache`, and the cache that includes them."""
        ids = np.array(ids, np.int64)
        past = cache["past_key_values.0.key"].shape[2]
        if mask is None:
            mask = np.ones((len(ids), past + ids.shape[1]), np.int64)
            positions = np.arange(past, past + ids.shape[1])[None].repeat(len(ids), 0)
        outputs = self.session.run(None, {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **cache})
        names = [output.name.replace("present", "past_key_values") for output in self.session.get_outputs()]
        return outputs[0], dict(zip(names[1:], outputs[1:]))

    def steps(self, ids, prefill):
        """`prefill` tokens at once, the rest one at a time: [tokens, vocabulary]."""
        rows, cache = self.step([ids[:prefill]], self.empty_cache())
        rows = [rows[0]]
        for token in ids[prefill:]:
            row, cache = self.step([[token]], cache)
            rows.append(row[0])
        return np.concatenate(rows)

    def padded(self, ids, padding):
        """The logits of `ids` as the second of a batch, with `padding` tokens to its left that are masked out."""
        batch = np.zeros((2, padding + len(ids)), np.int64)
        batch[1, padding:] = ids
        mask = np.ones_like(batch)
        mask[1, :padding] = 0
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        return self.step(batch, self.empty_cache(2), mask, positions)[0][1, padding:]

    def greedy(self, ids, count):
        rows, cache = self.step([ids], self.empty_cache())
        out = [int(rows[0, -1].argmax())]
        while len(out) < count:
            rows, cache = self.step([out[-1:]], cache)
            out.append(int(rows[0, -1].argmax()))
        return out


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def close(self, actual, expected, tolerance=TOLERANCE):
        self.assertLess(np.abs(actual - expected).max(), tolerance * np.abs(expected).max())

    @staticmethod
    def generated(directory, ids, count):
        """`ids` and what onnxruntime-genai chooses behind them."""
        loaded = onnxruntime_genai.Model(str(directory))
        params = onnxruntime_genai.GeneratorParams(loaded)
        params.set_search_options(max_length=len(ids) + count, do_sample=False)
        generator = onnxruntime_genai.Generator(loaded, params)
        generator.append_tokens(np.array(ids, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)]

    def check_generation(self, directory, model, ids, count=16):
        """onnxruntime-genai chooses the tokens that our float logits choose."""
        tokens = self.generated(directory, ids, count)
        self.assertEqual(tokens[:len(ids)], ids)
        ours = common.logits(model, tokens)[len(ids) - 1:].argmax(1).tolist()
        self.assertEqual(tokens[len(ids):], ours[:-1])
        if len(tokens) < len(ids) + count:  # it chose to end, and the last token is not always part of the sequence
            ends = json.loads((directory / "genai_config.json").read_text())["model"]["eos_token_id"]
            self.assertTrue({tokens[-1], ours[-1]} & set(np.atleast_1d(ends).tolist()))

    def check(self, directory, ids, expected, in_pieces=True):
        decoder = Decoder(directory)
        self.assertEqual([i.name for i in decoder.session.get_inputs()][:3], ["input_ids", "attention_mask", "position_ids"])
        self.close(decoder.steps(ids, len(ids)), expected)
        if in_pieces:
            self.close(decoder.steps(ids, len(ids) * 4 // 5), expected)
            self.close(decoder.padded(ids, 3), expected)
        return decoder


class Teacher(Case):
    def test_schemes(self):
        ids = common.tokenize(common.TEACHER, common.PROMPT)
        for scheme in ("int4-g128-sym", "int4-g32-asym", "int8-channel-sym", "int3-g64-asym", "int2-g32-sym", "q4_0", "q8_0"):
            model = common.quantized(common.TEACHER, self.dir / scheme, scheme, *common.keep_tied_head(scheme))
            dense = common.exported(model, self.dir / f"{scheme}.hf", "--format", "hf", "--type", "f32")
            dense, expected = load_file(dense / "model.safetensors"), common.logits(model, ids)
            for operators in OPERATORS:
                with self.subTest(scheme=scheme, operators=operators):
                    directory = common.exported(model, self.dir / f"{scheme}.{operators}", "--format", "onnx",
                                                "--operators", operators)
                    decoder = self.check(directory, ids, expected)
                    weights = decoded_weights(directory)
                    self.assertGreaterEqual(len(weights), 6 * 7)
                    for name, weight in weights.items():
                        np.testing.assert_array_equal(weight, dense[name])
                    if scheme == "int4-g128-sym":
                        self.check_greedy(model, decoder, ids)
                        self.check_generation(directory, model, ids)
                        self.check_operators(directory, operators)

    def check_operators(self, directory, operators):
        nodes = nodes_of(directory)
        if operators == "standard":
            self.assertEqual({n.op_type for n in nodes if n.domain}, set())
            return
        self.assertEqual({a.i for n in nodes if n.op_type == "MatMulNBits" for a in n.attribute if a.name == "block_size"}, {128})
        self.assertEqual(sum(n.op_type == "GroupQueryAttention" for n in nodes), 6)

    def check_greedy(self, model, decoder, ids):
        """Greedy tokens are those of our own float logits."""
        tokens = decoder.greedy(ids, 16)
        ours = common.logits(model, ids + tokens)[len(ids) - 1:-1].argmax(1)
        self.assertEqual(tokens, ours.tolist())

    def test_tokenizer_of_genai(self):
        model = common.quantized(common.TEACHER, self.dir / "tokenizer", "int4")
        loaded = onnxruntime_genai.Model(str(common.exported(model, self.dir / "tokenizer.onnx", "--format", "onnx")))
        tokenizer = onnxruntime_genai.Tokenizer(loaded)
        for text in (common.PROMPT, common.HARD_TEXT):
            self.assertEqual(list(tokenizer.encode(text)), common.tokenize(model, text))

    def test_int8_activations(self):
        ids = common.tokenize(common.TEACHER, common.PROMPT)
        model = common.quantized(common.TEACHER, self.dir / "level", "int4-g32-sym")
        directory = common.exported(model, self.dir / "level.onnx", "--format", "onnx", "--accuracy-level", 4)
        self.close(Decoder(directory).steps(ids, len(ids)), common.logits(model, ids), INT8_ACTIVATIONS)

    def test_float(self):
        ids = common.tokenize(common.TEACHER, common.PROMPT)
        model = common.quantized(common.TEACHER, self.dir / "float", "int4-g128-sym")
        for name in ("f32", "f16", "bf16"):
            with self.subTest(type=name):
                directory = common.exported(model, self.dir / name, "--format", "onnx", "--type", name)
                dense = common.exported(model, self.dir / f"{name}-hf", "--format", "hf", "--type", name)
                self.check(directory, ids, common.logits(dense, ids))

    def test_a_damaged_file_is_found(self):
        model = common.quantized(common.TEACHER, self.dir / "damaged", "int4-g128-sym")
        directory = common.exported(model, self.dir / "damaged.onnx", "--format", "onnx")
        codes = next(w for w in onnx.load(directory / "model.onnx", load_external_data=False).graph.initializer
                     if w.name == "model.layers.2.mlp.gate_proj.weight.codes")
        place = {entry.key: entry.value for entry in codes.external_data}
        common.flip_byte(directory / place["location"], int(place["offset"]) + 9)
        self.assertGreater(retort("verify", directory, "--against", model, code=3)["codes_different"], 0)

    def test_a_rewired_graph_is_found(self):
        """Graphs that ONNX Runtime runs, with other results than the model's, and one that it refuses."""
        model = common.quantized(common.TEACHER, self.dir / "rewired", "int4-g128-sym")
        ids = common.tokenize(common.TEACHER, common.PROMPT)
        expected = common.logits(model, ids)

        def node(graph, kind, scope):
            return next(n for n in graph.node if n.op_type == kind and n.name.startswith(scope))

        def exchange(one, a, b):
            one.input[a], one.input[b] = one.input[b], one.input[a]

        edits = {
            "product": lambda g: setattr(node(g, "Mul", "layers.3/ffn"), "op_type", "Add"),
            "keys": lambda g: exchange(node(g, "GroupQueryAttention", "layers.3"), 1, 2),
            "turns": lambda g: exchange(node(g, "RotaryEmbedding", "layers.3"), 2, 3),
        }
        for name, edit in edits.items():
            with self.subTest(edit=name):
                directory = common.exported(model, self.dir / f"rewired-{name}", "--format", "onnx")
                graph = onnx.load(directory / "model.onnx", load_external_data=False)
                edit(graph.graph)
                (directory / "model.onnx").write_bytes(graph.SerializeToString())
                self.assertGreater(np.abs(Decoder(directory).steps(ids, len(ids)) - expected).max(), 0.1)
                proof = retort("verify", directory, "--against", model, code=3)
                self.assertFalse(proof["equal"])
                self.assertGreater(proof["logits_max_difference"], 0.1)
        directory = common.exported(model, self.dir / "rewired-undefined", "--format", "onnx")
        graph = onnx.load(directory / "model.onnx", load_external_data=False)
        node(graph.graph, "Sigmoid", "layers.3").input[0] = "somewhere"
        (directory / "model.onnx").write_bytes(graph.SerializeToString())
        with self.assertRaises(Exception):
            onnxruntime.InferenceSession(str(directory / "model.onnx"))
        retort("verify", directory, "--against", model, code=1)


class BeyondTwoGiB(Case):
    def test_logits(self):
        """The data of all matrices lies behind an embedding of more bytes than a file of ONNX itself may have."""
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 280000, "hidden_size": 2048,
                  "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 16, "num_key_value_heads": 1,
                  "head_dim": 32, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
        path = self.dir / "large.json"
        path.write_text(json.dumps(config))
        retort("init", "--config", path, "--tokenizer", common.TEACHER, "--output", self.dir / "large", "--type", "f32")
        kept = ("--keep", "model.embed_tokens.weight=f32")
        model = common.quantized(self.dir / "large", self.dir / "int4", "int4-g32-sym", *kept)
        directory = self.dir / "onnx"
        retort("export", model, "--format", "onnx", "--output", directory)
        graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
        offsets = [int(entry.value) for stored in graph.initializer for entry in stored.external_data if entry.key == "offset"]
        self.assertGreater(sum(offset > 2 << 30 for offset in offsets), 7)
        ids = [5, 279999, 7, 123456, 9, 100]
        self.close(Decoder(directory).steps(ids, 4), common.logits(model, ids))


class Families(Case):
    """Every family against the logits of transformers in tests/golden."""

    def test_logits(self):
        for family in common.FAMILIES:
            golden = load_file(family / "golden.safetensors")
            ids = golden["input_ids"][0].tolist()
            model = common.family_model(family, self.dir / family.name)
            in_pieces = "longrope" not in family.name  # its frequencies depend on where a pass ends
            scheme = "q8_0" if "tied" in family.name else "int4-channel-sym"
            solved = common.quantized(model, self.dir / f"{family.name}.{scheme}", scheme)
            for operators in OPERATORS:
                with self.subTest(family=family.name, kind="float", operators=operators):
                    directory = self.export(model, f"{family.name}.{operators}", operators)
                    decoder = self.check(directory, ids, golden["logits"][0], in_pieces)
                    steps = golden["step_logits"][0]
                    self.close(decoder.steps(ids, len(ids) - len(steps))[-len(steps):], steps)
                    self.check_generation(directory, model, ids, 8)
                with self.subTest(family=family.name, kind=scheme, operators=operators):
                    directory = self.export(solved, f"{family.name}.{scheme}.{operators}", operators)
                    self.check(directory, ids, common.logits(solved, ids), in_pieces)
                    if operators == "contrib":
                        self.check_generation(directory, solved, ids, 8)

    def test_an_embedding_and_a_head_of_their_own(self):
        """Of an untied model, as integers of different schemes."""
        family = next(path for path in common.FAMILIES if path.name == "llama")
        ids = load_file(family / "golden.safetensors")["input_ids"][0].tolist()
        model = common.family_model(family, self.dir / "untied")
        for embedding, head in (("q8_0", "int8-channel-sym"), ("int4-g32-asym", "int4-g32-sym"), ("int8-channel-sym", "q4_0")):
            keep = ("--keep", f"model.embed_tokens.weight={embedding}", "--keep", f"lm_head.weight={head}")
            solved = common.quantized(model, self.dir / f"untied-{embedding}-{head}", "int4-g32-sym", *keep)
            for operators in OPERATORS:
                with self.subTest(embedding=embedding, head=head, operators=operators):
                    directory = self.export(solved, f"untied-{embedding}-{head}.{operators}", operators)
                    self.check(directory, ids, common.logits(solved, ids))
                    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
                    dense = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
                    self.assertFalse({"model.embed_tokens.weight", "lm_head.weight"} & dense)

    def export(self, model, name, operators):
        return common.exported(model, self.dir / f"{name}.onnx", "--format", "onnx", "--operators", operators)


def lines_with(*parts):
    """Texts of the corpus, the whole of HARD_TEXT among them, that have one of these parts."""
    return {text for text in test_tokenizers.CORPUS if any(part in text for part in parts)}


# To these onnxruntime-genai 0.18 (its onnxruntime-extensions) gives other ids than the library that tokenizer.json is
# written for, on the same file. A text ends for it before a NUL.
NUL = lines_with("\0")
# Text for a SentencePiece vocabulary it cuts by the pattern of Llama 3 before it merges: between a mark and the word
# behind it, and before the last blank of a run. If the text begins with a blank, it cuts where a word ends before a
# blank or a line's end, once it has more than ten characters, and after a hundred in any case.
PIECES = NUL | lines_with(" ▁under", "  ═", "  if (x12345678)", " " + "abcdefghij" * 30)
# Merges that are written as one string, "left right", as Phi-3's are, lose their carriage returns.
RETURNS = {"  \r", "if (x) {\r\n    return 1;  \r\n}\r\n"}
DIFFERENT = {"smollm2": NUL, "phi-3": PIECES | RETURNS, "mistral": PIECES, "llama2-spm-32000": PIECES}


@unittest.skipUnless((common.DATA / "tokenizers").exists(), "the data set is not beside the checkout")
class Tokenizers(Case, test_tokenizers.Models):
    """onnxruntime-genai's own tokenizer."""

    def setUp(self):
        self.dir = common.workspace(type(self))

    def load(self, model):
        directory = common.exported(model, self.dir / f"{model.name}.onnx", "--format", "onnx")
        return directory, onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(directory)))

    def check_ids(self, model, directory, genai, texts, known):
        library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        library.no_truncation()
        library.no_padding()
        begin = common.tokenize(model, "")  # which genai adds only when it is told to
        for text, ours in common.tokenize_all(model, texts).items():
            with self.subTest(model=model.name, text=text[:40]):
                self.assertEqual(library.encode(text).ids, ours)
                self.assertEqual(begin + genai.encode(text).tolist() == ours, text not in known)

    def test_ids(self):
        for name, kind in test_tokenizers.NAMES.items():
            model = self.model(name)
            directory, genai = self.load(model)
            special = "".join(self.specials(model)[:6])
            behind, inside = common.HARD_TEXT + special, f"one{special}two {special} three"
            # It puts a blank before text that follows a special token, as Phi-3's file does and a tokenizer.model not.
            known = DIFFERENT[name] | ({inside} if kind == "SentencePiece" else set())
            known |= {behind} if common.HARD_TEXT in known else set()
            self.check_ids(model, directory, genai, [*test_tokenizers.CORPUS, behind, "one" + special, inside], known)
            genai.update_options(add_special_tokens="true")
            # Here tokenizer_config.json counts, and Phi-3's asks for a BOS that its tokenizer.json does not add.
            begin = [1] if name == "phi-3" else []
            self.assertEqual(genai.encode(common.PROMPT).tolist(), begin + common.tokenize(model, common.PROMPT))

    def test_ids_of_a_gguf_file(self):
        model = common.exported(self.model("mistral"), self.dir / "mistral.gguf", "--format", "gguf", "--type", "f32")
        directory, genai = self.load(model)
        self.check_ids(model, directory, genai, [*test_tokenizers.CORPUS, "one<s></s>two <s> three"], PIECES)

    def test_it_knows_no_normalizers(self):
        model = self.model("smollm2")
        stored = json.loads((model / "tokenizer.json").read_text())
        (model / "tokenizer.json").write_text(json.dumps({**stored, "normalizer": {"type": "NFC"}}))
        self.check_ids(model, *self.load(model), ["caf\u00e9", "cafe\u0301"], {"cafe\u0301"})

    def test_generation(self):
        model = self.model("mistral", tie_word_embeddings=False)
        directory, genai = self.load(model)
        genai.update_options(add_special_tokens="true")
        ours = retort("generate", model, "--prompt", common.PROMPT, "--max-new-tokens", 16, "--temperature", 0)
        ids = genai.encode(common.PROMPT).tolist()
        self.assertGreater(len(set(ours["ids"])), 4)
        self.assertEqual(self.generated(directory, ids, 16), ids + ours["ids"])
        self.assertEqual(genai.decode(ours["ids"]), ours["text"])


if __name__ == "__main__":
    unittest.main()
